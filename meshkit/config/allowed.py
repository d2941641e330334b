"""What a setting may be, in words: its values, its range, its grammar."""

from __future__ import annotations

import enum
import typing

import annotated_types
from pydantic import AfterValidator
from pydantic.fields import FieldInfo

from meshkit.config.grammar import Grammar


def allowed(info: FieldInfo) -> str:
    """The values that a field takes, from its type and constraints; empty where any of its type will do."""
    if typing.get_origin(info.annotation) is typing.Literal:
        return _listed([str(value) for value in typing.get_args(info.annotation)])
    kinds = [kind for kind in (info.annotation, *typing.get_args(info.annotation)) if kind]
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            return _listed([str(member.value) for member in kind])
    if bool in kinds:
        return "true or false"
    if grammar := grammar_of(info):
        return grammar.pattern
    return " and ".join(text for item in info.metadata if (text := _bound(item)))


def grammar_of(info: FieldInfo) -> Grammar | None:
    """The grammar that a field's whole value must match; None where it has none."""
    checks = (item.func for item in info.metadata if isinstance(item, AfterValidator))
    owners = (getattr(check, "__self__", None) for check in checks)
    return next((owner for owner in owners if isinstance(owner, Grammar)), None)


def _bound(item: object) -> str:
    match item:
        case annotated_types.Gt(gt=bound):
            return f"above {bound}"
        case annotated_types.Ge(ge=bound):
            return f"at least {bound}"
        case annotated_types.Lt(lt=bound):
            return f"below {bound}"
        case annotated_types.Le(le=bound):
            return f"at most {bound}"
        case annotated_types.MaxLen(max_length=bound):
            return f"at most {bound} characters"
    return ""


def _listed(values: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(values[:-1]), values[-1])))
