"""From pydantic's errors to problems in our words, which quote values but never secrets."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import SecretBytes, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from meshkit.config.allowed import allowed
from meshkit.config.problems import Problem, Wrong
from meshkit.config.redaction import credentials_of, quote
from meshkit.config.secrets import is_secret_type

if TYPE_CHECKING:
    from meshkit.config.fields import SharedFields

_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "path": "a path",
    "finite": "a finite number",
}
_BOUNDS = {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}
# What pydantic adds because another setting is wrong already.
_CONSEQUENCES = {"default_factory_not_called"}
_SHORTEST_SCRUBBED = 4


def translate(
    config_class: type[SharedFields], error: ValidationError, values: Mapping[str, Any]
) -> list[Problem]:
    """The problems that a failed validation stands for.

    Args:
        config_class: What was validated.
        error: How it failed.
        values: What it was validated from, by field.
    """
    details = [detail for detail in error.errors(include_url=False) if detail["type"] not in _CONSEQUENCES]
    hidden = sorted(set(_secret_texts(config_class, values)), key=len, reverse=True)
    return [_scrub(_problem(config_class, detail), hidden) for detail in details]


def _problem(config_class: type[SharedFields], detail: ErrorDetails) -> Problem:
    field = str(detail["loc"][0]) if detail["loc"] else ""
    info = config_class.model_fields.get(field)
    if detail["type"] == "extra_forbidden":
        return Problem(field, f"{config_class.__name__} has no such setting", _suggest(field, config_class))
    setting = config_class.env_name(field) if info else config_class.__name__
    if detail["type"] == "missing":
        meaning = f"set it: {info.description}" if info and info.description else "set it"
        return Problem(setting, "it is not set, and has no default", meaning)
    secret = info is not None and is_secret_type(info.annotation)
    value = "the value" if secret else quote(detail["input"])
    return Problem(setting, *_explain(detail, value, allowed(info) if info else ""))


def _explain(detail: ErrorDetails, value: str, fits: str) -> tuple[str, str]:
    kind = detail["type"]
    cause = detail.get("ctx", {}).get("error")
    mend = f"it must be {fits}" if fits else ""
    if isinstance(cause, Wrong):
        return cause.what, cause.mend
    if kind in ("value_error", "assertion_error"):
        return str(cause), ""
    if kind in _BOUNDS:
        return f"{value} is out of range", mend
    if kind.endswith("too_long"):
        return f"{value} is too long", mend
    if kind in ("enum", "literal_error"):
        return f"{value} is none of its values", mend
    if expected := _EXPECTED.get(kind.partition("_")[0]):
        return f"{value} is not {expected}", mend
    return f"{value} does not fit ({detail['msg']})", mend


def _suggest(field: str, config_class: type[SharedFields]) -> str:
    close = difflib.get_close_matches(field, config_class.model_fields, n=1)
    return f"did you mean {close[0]}?" if close else "take it out"


def _secret_texts(config_class: type[SharedFields], values: Mapping[str, Any]) -> Iterator[str]:
    """Secret texts, whole and in parts, that a validator of somebody else's might have quoted.

    What the setting's description says is no secret, such as the usual port of a Redis.
    """
    for field, value in values.items():
        info = config_class.model_fields.get(field)
        if info is not None and is_secret_type(info.annotation):
            said = info.description or ""
            yield from (
                part for part in _parts(value) if len(part) >= _SHORTEST_SCRUBBED and part not in said
            )
        elif isinstance(value, str):
            yield from (part for part in credentials_of(value) if len(part) >= _SHORTEST_SCRUBBED)


def _parts(secret: object) -> Iterator[str]:
    value = secret.get_secret_value() if isinstance(secret, (SecretStr, SecretBytes)) else secret
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    yield text
    yield from credentials_of(text)
    for item in text.split(","):
        yield item
        yield item.rpartition(":")[2]


def _scrub(problem: Problem, hidden: list[str]) -> Problem:
    what, mend = problem.what, problem.mend
    for text in hidden:
        whole = re.compile(rf"(?<!\w){re.escape(text)}(?!\w)")  # not a part of another word
        what, mend = whole.sub("***", what), whole.sub("***", mend)
    return Problem(problem.setting, what, mend, problem.source)
