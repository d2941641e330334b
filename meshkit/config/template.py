"""A `.env` to begin with: every setting with its meaning, commented out where it has a default."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from pydantic import SecretBytes, SecretStr

from meshkit.config.allowed import allowed
from meshkit.config.explained import NOT_SET, default_text, show, summary
from meshkit.config.grammar import Environment
from meshkit.config.secrets import is_secret_type
from meshkit.config.shared import SharedConfig

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

MADE_BY = "meshkit config env-template"

_WIDTH = 100

_HEAD = """\
Settings of the mesh. Made by `{command}`.

A line that begins with # is not read. Where it has a value, that is the default, so that nothing here needs to be
set: take the # away from what is to be another. `meshkit config check` says whether all is right."""

_GROUPS = {
    "env": "What runs where",
    "log_level": "Logs",
    "grpc_host": "Serving",
    "grpc_tls_enabled": "TLS",
    "health_host": "Health port",
    "max_calls": "Admission",
    "redis_url": "Redis, and where instances are found",
    "state_dir": "State",
    "lease_ttl_s": "Discovery",
    "lb_policy": "Balancing",
    "project_id": "Who this is, and who may call",
    "stream_max_age_s": "Streams and proofs",
    "drain_grace_s": "Drain",
}
"""Headings, each by the first setting below it: one that is new belongs to the group that it was put into."""


def env_template(config_classes: Iterable[type[SharedConfig]], targets: Iterable[str] = ()) -> str:
    """The text of a `.env` for one or several services: the settings of all, then each one's own.

    As it stands it changes nothing: what it sets is the default. It ends with a newline.

    Args:
        config_classes: The services' config classes.
        targets: What they were asked for by, for the first line.
    """
    listed = list(dict.fromkeys(config_classes))
    lines = [*_comment(_HEAD.format(command=" ".join([MADE_BY, *targets])))]
    for name in SharedConfig.model_fields:
        if name in _GROUPS:
            lines += ["", "", f"# {_GROUPS[name]} ".ljust(_WIDTH, "-")]
        lines += ["", *_setting(SharedConfig, name)]
    for kind in listed:
        own = [name for name in kind.model_fields if name not in SharedConfig.model_fields]
        if own:
            lines += ["", "", f"# {kind.__name__} ".ljust(_WIDTH, "-"), *_comment(summary(kind))]
        for name in own:
            lines += ["", *_setting(kind, name)]
    return "\n".join(lines) + "\n"


def _setting(config_class: type[SharedConfig], name: str) -> Iterator[str]:
    info, setting = config_class.model_fields[name], config_class.env_name(name)
    yield from _comment(info.description or "")
    if values := allowed(info):
        yield from _comment(f"Values: {values}")
    value, remark = _default(info)
    if remark:
        yield from _comment(f"Default: {remark}")
    if is_secret_type(info.annotation):
        yield from _comment(f"A secret: better in a file of its own, which {setting}_FILE names.")
        if isinstance(info.json_schema_extra, dict) and (make := info.json_schema_extra.get("make")):
            yield f"# Make one with: {make}"
    yield f"{setting}=" if info.is_required() else f"#{setting}={value}"


def _default(info: FieldInfo) -> tuple[str, str]:
    """A default as it can stand in the file, and what is to be said of it in words."""
    if info.is_required():
        return "", "none, it must be set"
    extra = info.json_schema_extra
    if isinstance(info.default, (SecretStr, SecretBytes)):
        value = info.default.get_secret_value()
        return (value if isinstance(value, str) else ""), ""
    if isinstance(extra, dict) and "default_text" in extra:
        return "", str(extra["default_text"])
    local = info.get_default(call_default_factory=True, validated_data={"env": Environment.LOCAL})
    text = show(local)
    whole = default_text(info)
    return ("" if text == NOT_SET else text), (whole if whole != text else "")


def _comment(text: str) -> Iterator[str]:
    for place, paragraph in enumerate(text.split("\n\n")):
        if place:
            yield "#"
        for line in textwrap.wrap(paragraph, _WIDTH - 2, break_long_words=False, break_on_hyphens=False):
            yield f"# {line}"
