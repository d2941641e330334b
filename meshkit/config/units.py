"""Units behind numbers: `500ms` for seconds, `64MiB` for MiB. A plain number is in the unit of the setting's name."""

from __future__ import annotations

import re
import types
import typing

from meshkit.config.problems import Wrong
from meshkit.config.redaction import quote

_NUMBER_AND_UNIT = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*([A-Za-zµ]+)\s*")

_UNITS: dict[str, tuple[str, dict[str, float]]] = {
    "_s": ("seconds", {"ms": 0.001, "s": 1, "min": 60, "h": 3600, "d": 86400}),
    "_days": ("days", {"h": 1 / 24, "d": 1}),
    "_mb": ("MiB", {"KiB": 1 / 1024, "MiB": 1, "GiB": 1024}),
}
"""By the end of a setting's name: the unit of its plain numbers, and how many of it others are.

Those that mean one thing to one reader and another to the next are not among them: `5m` (minutes, or thousandths),
`16MB` (millions, or MiB).
"""


def unit_of(field: str) -> str:
    """The unit of a setting's plain numbers, by its name; empty where it has none."""
    return next((unit for end, (unit, _) in _UNITS.items() if field.endswith(end)), "")


def units_of(field: str) -> dict[str, float]:
    """The units that a setting's numbers may have, each with how many of the plain unit it is; empty for none."""
    return next((known for end, (_, known) in _UNITS.items() if field.endswith(end)), {})


def read_unit(value: object, field: str, annotation: object) -> object:
    """Turns text with a unit into the number that a setting wants; returns all else as it is.

    Raises:
        Wrong: The unit is none that the setting knows.
    """
    found = _NUMBER_AND_UNIT.fullmatch(value) if isinstance(value, str) else None
    known = units_of(field)
    if found is None or not known or not _is_number(annotation):
        return value
    number, unit = found.groups()
    if unit not in known:
        mend = (
            f"write a plain number of {unit_of(field)}, or one of {', '.join(f'5{unit}' for unit in known)}"
        )
        raise Wrong(f"{quote(value)} has a unit that is not known here", mend)
    return round(float(number) * known[unit], 9)


def _is_number(annotation: object) -> bool:
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return any(_is_number(part) for part in typing.get_args(annotation))
    return annotation in (int, float)
