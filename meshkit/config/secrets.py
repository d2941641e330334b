"""Secrets: how they are held, parsed and kept out of everything that people read."""

from __future__ import annotations

import base64
import hashlib
import re
import types
import typing
from dataclasses import dataclass, field

from pydantic import BaseModel, SecretBytes, SecretStr

from meshkit.config.grammar import KID
from meshkit.config.problems import Wrong

Secret = SecretStr
"""The type of a secret setting: hidden in repr, str and JSON; `get_secret_value()` gives the text."""

MIN_SECRET_BYTES = 32
MAX_SECRET_BYTES = 1024
MAX_SECRETS = 16
SEALING_KEY_BYTES = 32
MAX_SEALING_KEYS = 16
PLAIN = frozenset({"", "false", "0", "no", "off"})
"""What `REDIS_SECRET_KEY` is, in lower case, where records are not sealed."""

_BASE64URL_OF_32_BYTES = re.compile("[A-Za-z0-9_-]{43}=?")
_MAKE_SEALING_KEY = "make one with `openssl rand -base64 32 | tr '/+' '_-'`"


@dataclass(frozen=True, slots=True)
class ProjectSecret:
    """One secret of a project.

    Attributes:
        kid: Name of the secret, `[A-Za-z0-9_-]{1,32}`; travels in tokens.
        secret: The secret text; its UTF-8 bytes are the key material. Hidden in the repr.
    """

    kid: str
    secret: str = field(repr=False)


def parse_project_secrets(text: str) -> tuple[ProjectSecret, ...]:
    """Reads `kid:secret,kid:secret` (newest first), or a bare secret.

    The kid of a bare secret is the first 8 hex digits of its SHA-256.

    Raises:
        Wrong: It is neither; the message quotes nothing of it.
    """
    if not text:
        return ()
    if ":" not in text and "," not in text:
        _check_secret(text, "the secret")
        return (ProjectSecret(hashlib.sha256(text.encode()).hexdigest()[:8], text),)
    items = text.split(",")
    if len(items) > MAX_SECRETS:
        raise Wrong(f"there are {len(items)} secrets", f"keep at most {MAX_SECRETS}")
    secrets = tuple(_parse_item(item, position, len(items)) for position, item in enumerate(items, 1))
    if len({secret.kid for secret in secrets}) < len(secrets):
        raise Wrong("a kid stands there twice", "give each secret a kid of its own")
    return secrets


@dataclass(frozen=True, slots=True)
class SealingKey:
    """One key that records in Redis are sealed with.

    Attributes:
        kid: Name of the key, `[A-Za-z0-9_-]{1,32}`; stands in each record that it sealed.
        key: 32 bytes, for AES-256-GCM. Hidden in the repr.
    """

    kid: str
    key: bytes = field(repr=False)


def parse_sealing_keys(text: str) -> tuple[SealingKey, ...]:
    """Reads `kid:key,kid:key`, keys of 32 bytes in base64url: the first seals, all open.

    Returns:
        The keys; none where the text is `false` or empty, which leaves records plain.

    Raises:
        Wrong: It is neither; the message quotes nothing of it.
    """
    if text.lower() in PLAIN:
        return ()
    items = text.split(",")
    if len(items) > MAX_SEALING_KEYS:
        raise Wrong(f"there are {len(items)} keys", f"keep at most {MAX_SEALING_KEYS}")
    keys = tuple(_parse_sealing_key(item, f"key {n} of {len(items)}") for n, item in enumerate(items, 1))
    if len({key.kid for key in keys}) < len(keys):
        raise Wrong("a kid stands there twice", "give each key a kid of its own")
    if len({key.key for key in keys}) < len(keys):
        raise Wrong("a key stands there twice", "make a new key for each kid")
    return keys


def _parse_sealing_key(item: str, place: str) -> SealingKey:
    kid, colon, text = item.partition(":")
    if not colon:
        raise Wrong(f"{place} has no kid", "write kid:key,kid:key; or false, to leave records plain")
    if not re.fullmatch(KID.pattern, kid):
        raise Wrong(f"the kid of {place} is not {KID.noun}", f"it must match {KID.pattern}")
    if not _BASE64URL_OF_32_BYTES.fullmatch(text):
        raise Wrong(f"{place} is not {SEALING_KEY_BYTES} bytes in base64url", _MAKE_SEALING_KEY)
    key = base64.urlsafe_b64decode(text.rstrip("=") + "=")
    if base64.urlsafe_b64encode(key).rstrip(b"=").decode() != text.rstrip("="):
        raise Wrong(f"{place} has bits beyond its {SEALING_KEY_BYTES} bytes", _MAKE_SEALING_KEY)
    return SealingKey(kid, key)


def _parse_item(item: str, position: int, count: int) -> ProjectSecret:
    place = f"secret {position} of {count}"
    kid, colon, secret = item.partition(":")
    if not colon:
        raise Wrong(
            f"{place} has no kid", "write kid:secret,kid:secret; a secret has no ',' and no ':' in it"
        )
    if not re.fullmatch(KID.pattern, kid):
        raise Wrong(f"the kid of {place} is not {KID.noun}", f"it must match {KID.pattern}")
    if ":" in secret:
        raise Wrong(f"{place} has a ':' in it", "write kid:secret; a secret has no ',' and no ':' in it")
    _check_secret(secret, place)
    return ProjectSecret(kid, secret)


def _check_secret(secret: str, place: str) -> None:
    make = "make one with `openssl rand -hex 32`"
    try:
        size = len(secret.encode())
    except UnicodeEncodeError:
        size = -1  # raised outside: the error that it replaces holds the secret
    if size < 0:
        raise Wrong(f"{place} is not UTF-8", make)
    if size < MIN_SECRET_BYTES:
        raise Wrong(f"{place} is {size} bytes, shorter than {MIN_SECRET_BYTES}", make)
    if size > MAX_SECRET_BYTES:
        raise Wrong(f"{place} is {size} bytes, longer than {MAX_SECRET_BYTES}", make)
    if secret != secret.strip() or not secret.isprintable():
        raise Wrong(f"{place} has white space at an end, or characters that do not print", make)


def is_secret_type(annotation: object, kinds: tuple[type, ...] = (SecretStr, SecretBytes)) -> bool:
    """Whether a field of this type holds a secret, optional or not."""
    if annotation in kinds:
        return True
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is not None:
        return any(is_secret_type(part, kinds) for part in typing.get_args(annotation))
    return False


def takes_file(config_class: type[BaseModel], name: str) -> bool:
    """Whether a field may stand in a file of its own: secrets, and URLs, which may carry a password."""
    return is_secret_type(config_class.model_fields[name].annotation) or name.endswith("_url")
