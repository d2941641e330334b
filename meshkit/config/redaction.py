"""What people may read of a value: URLs without their credentials, and values short enough for a message."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pydantic import BaseModel, SecretStr

_HIDDEN = "***"
_SENSITIVE_QUERY = re.compile(
    r"(?i)([?&][^=&#\s]*(?:pass|pwd|secret|token|key(?!file)|credential)[^=&#\s]*=)([^&#\s]+)"
)
_LONGEST = 80


def redact_url(text: str) -> str:
    """Hides what a URL carries of credentials, and leaves any other text as it is.

    Errs on the side of hiding: user information reaches to the last `@`; without a colon it is hidden whole.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        return text
    user_information, at, host = rest.rpartition("@")
    if at:
        user, colon, _ = user_information.partition(":")
        rest = f"{user}:{_HIDDEN}@{host}" if colon else f"{_HIDDEN}@{host}"
    hidden = _SENSITIVE_QUERY.sub(lambda match: match.group(1) + _HIDDEN, rest)
    return f"{scheme}://{hidden}"


def credentials_of(text: str) -> Iterator[str]:
    """The parts of a URL that `redact_url` hides."""
    rest = text.partition("://")[2]
    user_information, at, _ = rest.rpartition("@")
    if at:
        yield user_information.partition(":")[2] or user_information
    yield from (match.group(2) for match in _SENSITIVE_QUERY.finditer(rest))


def quote(value: object) -> str:
    """A value as a message quotes it."""
    shown = repr(redact_url(value) if isinstance(value, str) else value)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 3]}…"


def known_secrets(config: BaseModel) -> Iterator[str]:
    """What of a configuration nobody may read: secret settings, each key within them, passwords in URLs."""
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, SecretStr):
            text = value.get_secret_value()
            yield text
            for item in text.split(","):
                yield item.partition(":")[2] or item
        elif not isinstance(value, str):
            continue
        else:
            text = value
        if "://" in text:
            yield from credentials_of(text)
