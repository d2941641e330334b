"""What stands in Redis for a key of a project: its key row, or that it was removed; who wrote that and when; sealed.

The rows of a mesh are the fields `<project>:<kid>` of the hash `<namespace>:projects`. A value is sealed for its field
(`meshkit/redis/sealing.py`), and holds JSON:

    {"version": 1, "written_at": 1800000000123, "written_by": "ops@host", "project": "shop", "kid": "2026a",
     "key": {"project": "shop", "kid": "2026a", "status": "active", "secret": "…", "grants": {…}}}

`key` is a row as `meshkit/security/keyrows.py` reads it. It is null where the key was removed: a removal is a statement
of somebody who holds the sealing key, and not merely a field that is gone, as any field is that Redis lost.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from meshkit.redis.sealing import Sealer, SealRefused
from meshkit.security.keyrows import dump_row, parse_row
from meshkit.security.keys import KID, PROJECT, KeyRow

VERSION = 1
MAX_AUTHOR = 100
"""Characters that say who wrote a row."""

_LATEST = 253_402_300_800_000
"""The first millisecond of the year 10000."""


class RowRefused(ValueError):
    """A row cannot be used; the text says why and what to do, and quotes no key."""


@dataclass(frozen=True, slots=True)
class ProjectRow:
    """What the store says of one key.

    Attributes:
        project: Whose key it is.
        kid: Its name.
        key: The key; None where it was removed.
        written_at: Unix time in milliseconds of the writing; each writing of a row is later than the one before.
        written_by: Who wrote it, for people.
    """

    project: str
    kid: str
    key: KeyRow | None
    written_at: int
    written_by: str

    @property
    def field(self) -> str:
        """Its field in the hash."""
        return field_of(self.project, self.kid)


def field_of(project: str, kid: str) -> str:
    """The field of a key in the hash."""
    return f"{project}:{kid}"


def projects_key(namespace: str) -> str:
    """The hash of a mesh's rows."""
    return f"{namespace}:projects"


def events_channel(namespace: str) -> str:
    """The channel on which rows are published as they are written: `<field> <sealed row>`."""
    return f"{projects_key(namespace)}:events"


class RowCodec:
    """Seals and opens the rows of one mesh.

    Args:
        sealer: Seals and opens values.
        namespace: Name of the mesh.

    Raises:
        ValueError: The sealer has no keys: secrets are not written into Redis in plain.
    """

    def __init__(self, sealer: Sealer, namespace: str) -> None:
        if sealer.kid is None:
            raise ValueError("the project store holds secrets, and REDIS_SECRET_KEY is false: set it")
        self._sealer = sealer
        self._key = projects_key(namespace)

    def seal(self, row: ProjectRow) -> bytes:
        """The value of a row.

        Raises:
            SealRefused: It is too long.
        """
        return self._sealer.seal(_dump(row), key=self._key, field=row.field)

    def open(self, field: str, value: bytes) -> ProjectRow:
        """The row of a value.

        Raises:
            RowRefused: It does not open, or is no row of that field.
        """
        try:
            return _load(self._sealer.open(value, key=self._key, field=field), field)
        except SealRefused as refused:
            raise RowRefused(str(refused)) from None


def _dump(row: ProjectRow) -> bytes:
    return json.dumps(
        {
            "version": VERSION,
            "written_at": row.written_at,
            "written_by": row.written_by,
            "project": row.project,
            "kid": row.kid,
            "key": None if row.key is None else dump_row(row.key),
        }
    ).encode()


def _load(data: bytes, field: str) -> ProjectRow:
    fields = _parse(data)
    _check_version(fields.get("version"))
    at, by = fields.get("written_at"), fields.get("written_by")
    if type(at) is not int or not 0 <= at < _LATEST:
        raise RowRefused("it does not say when it was written")
    if not (isinstance(by, str) and len(by) <= MAX_AUTHOR and by.isprintable()):
        raise RowRefused("it does not say who wrote it")
    project, kid = fields.get("project"), fields.get("kid")
    if not (isinstance(project, str) and isinstance(kid, str) and _is_name(project, kid)):
        raise RowRefused("it names no key")
    key = _key(fields)
    if field_of(project, kid) != field or (key is not None and (key.project, key.kid) != (project, kid)):
        raise RowRefused("it is the row of another key")
    return ProjectRow(project, kid, key, at, by)


def _parse(data: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        fields = None  # raised outside: the error that it replaces holds the text
    if not isinstance(fields, dict):
        raise RowRefused("it is no JSON object")
    return fields


def _check_version(version: object) -> None:
    if type(version) is not int or version < 1:
        raise RowRefused("its version is no whole number above 0")
    if version > VERSION:
        raise RowRefused(f"its version is {version}, and this release reads {VERSION}: upgrade this program")


def _is_name(project: str, kid: str) -> bool:
    return PROJECT.fullmatch(project) is not None and KID.fullmatch(kid) is not None


def _key(fields: dict[str, Any]) -> KeyRow | None:
    if "key" not in fields:
        raise RowRefused("it has no key, and does not say that it was removed")
    if fields["key"] is None:
        return None
    try:
        return parse_row(fields["key"], "its key")
    except ValueError as error:
        raise RowRefused(str(error)) from None
