"""The record of an instance as registries carry it: JSON that a newer and an older release can both read."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from typing import Any, NoReturn

from meshkit.instance import RECORD_VERSION, Instance, State

MAX_RECORD_BYTES = 64 * 1024
"""What is longer is no record of ours."""

_REQUIRED = ("service", "instance_id", "address")
_TEXTS = (*_REQUIRED, "zone", "version", "shard_key", "metrics")
_NUMBERS = ("weight", "started_at")
_LISTS = ("contracts", "tenants")


class RecordRefused(ValueError):
    """What stands there is not the record of an instance that this release can use; the message says why."""


def revise(instance: Instance, *, state: State | None = None, weight: float | None = None) -> Instance:
    """The instance with another state or weight; None leaves it as it is.

    Raises:
        ValueError: The weight is not above 0.
    """
    return replace(
        instance,
        state=instance.state if state is None else state,
        weight=instance.weight if weight is None else weight,
    )


def dump(instance: Instance, *, written_at: int | None = None) -> bytes:
    """Writes an instance as its record, in UTF-8.

    Args:
        instance: The instance.
        written_at: Unix time in milliseconds, where a registry keeps it.
    """
    row = asdict(instance) | ({} if written_at is None else {"written_at": written_at})
    return json.dumps(row, separators=(",", ":"), ensure_ascii=False).encode()


def load(data: bytes, *, service: str, instance_id: str) -> Instance:
    """Reads the record that was found in the place of an instance. Fields that it does not know are ignored.

    Args:
        data: The record, in UTF-8.
        service: The service in whose place it was found.
        instance_id: The instance in whose place it was found.

    Raises:
        RecordRefused: It does not parse, claims to be somebody else, or is of a release too new for this one.
    """
    return _instance(_parse(data), service, instance_id)


def load_dated(data: bytes, *, service: str, instance_id: str) -> tuple[Instance, int]:
    """Reads a record and when it was written, Unix time in milliseconds.

    Raises:
        RecordRefused: As `load`, or it does not say when it was written.
    """
    row = _parse(data)
    written_at = row.get("written_at")
    if type(written_at) is not int or not 0 <= written_at < 2**63:
        raise RecordRefused("it does not say when it was written")
    return _instance(row, service, instance_id), written_at


def _instance(row: dict[str, Any], service: str, instance_id: str) -> Instance:
    for name in _REQUIRED:
        if name not in row:
            raise RecordRefused(f"it has no {name}")
    known: dict[str, Any] = {name: _text(row, name) for name in _TEXTS if name in row}
    known |= {name: _number(row, name) for name in _NUMBERS if name in row}
    known |= {name: _texts(row, name) for name in _LISTS if name in row}
    if "record_version" in row:
        known["record_version"] = _version(row["record_version"])
    if "state" in row:
        known["state"] = _state(row["state"])
    if (known["service"], known["instance_id"]) != (service, instance_id):
        raise RecordRefused(f"it claims to be {known['instance_id']!r} of {known['service']!r}")
    try:
        return Instance(**known)
    except ValueError as error:
        raise RecordRefused(str(error)) from None


def _parse(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_RECORD_BYTES:
        raise RecordRefused(f"it is longer than {MAX_RECORD_BYTES} bytes")
    try:
        row = json.loads(data, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise RecordRefused("it is not JSON") from None
    if not isinstance(row, dict):
        raise RecordRefused("it is not a JSON object")
    return row


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _text(row: dict[str, Any], name: str) -> str:
    if not isinstance(row[name], str):
        raise RecordRefused(f"its {name} is not text")
    return str(row[name])


def _texts(row: dict[str, Any], name: str) -> tuple[str, ...]:
    values = row[name]
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise RecordRefused(f"its {name} is not a list of texts")
    return tuple(values)


def _number(row: dict[str, Any], name: str) -> float:
    value = row[name]
    try:
        number = float(value) if type(value) in (int, float) else math.nan
    except OverflowError:
        number = math.nan
    if not math.isfinite(number):
        raise RecordRefused(f"its {name} is not a finite number")
    return number


def _version(value: object) -> int:
    if type(value) is not int or value < 1:
        raise RecordRefused("its record_version is not a whole number above 0")
    if value > RECORD_VERSION + 1:
        raise RecordRefused(
            f"its version is {value}, and this release reads up to {RECORD_VERSION + 1}: upgrade this program"
        )
    return value


def _state(value: object) -> State:
    try:
        return State(value)  # type: ignore[arg-type]
    except ValueError:
        raise RecordRefused(f"its state {value!r} is not known here") from None
