"""The JSON Schema of a service's settings by their names in the environment, for editors, charts and pipelines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticUndefined

from meshkit.config.allowed import grammar_of
from meshkit.config.explained import default_text
from meshkit.config.secrets import is_secret_type, takes_file
from meshkit.config.sources import CONFIG_FILE
from meshkit.config.units import units_of

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from meshkit.config.shared import SharedConfig

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_ABOUT = (
    "Settings by their names in the environment, in the types of a TOML configuration file; text in their place is "
    "read as in the environment. The empty text is no value."
)
_NUMBER = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
_TRUTH = ("true", "false", "yes", "no", "on", "off", "t", "f", "y", "n", "1", "0")


def schema(config_class: type[SharedConfig]) -> dict[str, Any]:
    """The schema, in draft 2020-12. What it refuses, `load` refuses; rules between settings are not in it.

    Args:
        config_class: Whose settings.
    """
    made = config_class.model_json_schema()
    kinds: dict[str, Any] = made.get("$defs", {})
    properties: dict[str, Any] = {}
    pairs = []
    for name, info in config_class.model_fields.items():
        setting = config_class.env_name(name)
        properties[setting] = _property(name, info, made["properties"][name], kinds)
        if takes_file(config_class, name):
            about = f"File that holds {setting}; the two are not set together."
            properties[f"{setting}_FILE"] = {"type": "string", "description": about}
            pairs.append({"not": {"required": [setting, f"{setting}_FILE"]}})
    properties[CONFIG_FILE] = {"type": "string", "description": "TOML file with settings; no secrets in it."}
    return {
        "$schema": DIALECT,
        "title": config_class.__name__,
        "description": _ABOUT,
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "required": [config_class.env_name(name) for name in made.get("required", ())],
        "allOf": pairs,
        "$defs": {name: kind for name, kind in kinds.items() if "enum" not in kind},
    }


def _property(name: str, info: FieldInfo, made: dict[str, Any], kinds: dict[str, Any]) -> dict[str, Any]:
    described = {"description": info.description or ""}
    if is_secret_type(info.annotation):
        return described | {"type": "string", "writeOnly": True}
    if info.default is PydanticUndefined or info.default is None or "default_text" in made:
        if not info.is_required():
            described["description"] += f" Default: {default_text(info)}."
    else:
        described["default"] = made["default"]
    kept = {key: value for key, value in made.items() if key in _KEPT}
    forms = [form for each in kept.pop("anyOf", [kept]) for form in _forms(name, info, each, kinds)]
    return described | (forms[0] if len(forms) == 1 else {"anyOf": forms})


_KEPT = frozenset(
    {
        "$ref",
        "additionalProperties",
        "anyOf",
        "enum",
        "exclusiveMaximum",
        "exclusiveMinimum",
        "format",
        "items",
        "maxLength",
        "maximum",
        "minLength",
        "minimum",
        "pattern",
        "type",
    }
)
"""Keywords that say what a value is; titles, and defaults of the class, are not among them."""


def _forms(name: str, info: FieldInfo, made: dict[str, Any], kinds: dict[str, Any]) -> list[dict[str, Any]]:
    """How a value may be written: in its own type, and as text."""
    made = {key: _resolved(value, kinds) for key, value in _resolved(made, kinds).items()}
    kind = made.get("type")
    if "enum" in made:
        return [{"enum": made["enum"]}, _text("|".join(map(_in_any_case, made["enum"])))]
    if kind in ("integer", "number"):
        units = "|".join(units_of(name))
        return [made, _text(rf"\s*{_NUMBER}\s*({units})?\s*" if units else rf"\s*{_NUMBER}\s*")]
    if kind == "boolean":
        return [made, _text("|".join(map(_in_any_case, _TRUTH)))]
    if kind == "array":
        return [made, {"type": "string"}]
    if kind == "object":
        return [made, _text(r"\s*[^=]+=[^,]*(,[^=]+=[^,]*)*,?\s*")]
    if kind == "null":
        return []
    grammar = grammar_of(info)
    return [_text(grammar.pattern)] if grammar is not None else [made]


def _resolved(value: Any, kinds: dict[str, Any]) -> Any:
    """A part of the schema with what it refers to in its place, where that is a list of values."""
    if isinstance(value, dict) and "$ref" in value:
        target = kinds[value["$ref"].rpartition("/")[2]]
        return {"type": "string", "enum": target["enum"]} if "enum" in target else value
    return value


def _text(pattern: str) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^({pattern})?$"}


def _in_any_case(word: str) -> str:
    return "".join(f"[{letter.lower()}{letter.upper()}]" if letter.isalpha() else letter for letter in word)
