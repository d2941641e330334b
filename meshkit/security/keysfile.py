"""The keys file: key rows of other projects in TOML, read again when it changes, all or nothing.

    [[key]]
    project = "shop"
    kid = "2026a"
    token_key = "…"        # 32 bytes, base64url without padding; from `meshkit keys export --for brain`
    proof_key = "…"
    grants = { tenants = ["acme"], permissions = ["brain:read"], subjects = ["*"], delegate = [] }

A row with `status = "retired"` needs no keys: it refuses a key wherever else that is found.
"""

from __future__ import annotations

import base64
import re
import stat
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import structlog
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from meshkit.security.keys import KID, PROJECT, Grants, KeyRow, KeyStatus, ServiceKeys, StaticRing
from meshkit.security.rights import is_permission, is_tenant

log = structlog.get_logger("meshkit.security")


def _decode_key(text: object) -> object:
    if not isinstance(text, str):
        return text
    if not _KEY.fullmatch(text):
        raise ValueError("is not 32 bytes as base64url without padding (43 characters)")
    return base64.urlsafe_b64decode(text + "=")


def _named(what: str, is_name: Callable[[str], bool]) -> AfterValidator:
    def check(name: str) -> str:
        if not is_name(name):
            raise ValueError(f"is not {what}, nor *")
        return name

    return AfterValidator(check)


def _is_subject(name: str) -> bool:
    return 0 < len(name) <= 200 and name.isprintable()


def _is_project(name: str) -> bool:
    return name == "*" or PROJECT.fullmatch(name) is not None


_KEY = re.compile(r"[A-Za-z0-9_-]{43}")
_Key = Annotated[bytes, BeforeValidator(_decode_key)]
_Tenant = Annotated[str, _named("a tenant", is_tenant)]
_Permission = Annotated[str, _named("service:verb or service:*", is_permission)]
_Subject = Annotated[str, _named("a subject", _is_subject)]
_Project = Annotated[str, _named("a project", _is_project)]


class _GrantsModel(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    tenants: frozenset[_Tenant] = frozenset()
    permissions: frozenset[_Permission] = frozenset()
    subjects: frozenset[_Subject] = frozenset()
    delegate: frozenset[_Project] = frozenset()


class _RowModel(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    project: str = Field(pattern=f"^{PROJECT.pattern}$")
    kid: str = Field(pattern=f"^{KID.pattern}$")
    status: KeyStatus = KeyStatus.ACTIVE
    secret: str | None = Field(default=None, repr=False)
    token_key: _Key | None = Field(default=None, repr=False)
    proof_key: _Key | None = Field(default=None, repr=False)
    grants: _GrantsModel = _GrantsModel()

    @model_validator(mode="after")
    def _one_kind_of_key(self) -> _RowModel:
        if self.project == "shield":
            raise ValueError("the project name shield is reserved")
        given = (self.secret is not None, self.token_key is not None, self.proof_key is not None)
        needless = self.status is KeyStatus.RETIRED and not any(given)
        if given not in ((True, False, False), (False, True, True)) and not needless:
            raise ValueError("give either secret, or token_key and proof_key")
        if self.token_key is not None and self.token_key == self.proof_key:
            raise ValueError("token_key and proof_key are one key: copy both as they were exported")
        if self.secret is not None and len(self.secret.encode()) < 32:
            raise ValueError("secret is shorter than 32 bytes")
        return self

    def row(self) -> KeyRow:
        keys = ServiceKeys(self.token_key, self.proof_key) if self.token_key and self.proof_key else None
        secret = self.secret.encode() if self.secret else None
        return KeyRow(
            self.project, self.kid, self.status, Grants(**dict(self.grants)), secret=secret, keys=keys
        )


def parse_keys(text: str) -> list[KeyRow]:
    """Reads the rows of a keys file.

    Raises:
        ValueError: What is wrong, and in which row; never a key.
    """
    try:
        document: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"is not TOML: {error}") from None
    if unknown := sorted(set(document) - {"key"}):
        raise ValueError(f"has unknown tables {', '.join(unknown)}; only [[key]] is known")
    tables = document.get("key", [])
    if not isinstance(tables, list):
        raise ValueError("has [key] where [[key]] is meant")
    rows = [_parse_row(place, table) for place, table in enumerate(tables, 1)]
    names = [(row.project, row.kid) for row in rows]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"has the key {':'.join(twice[0])} twice")
    return rows


def _parse_row(place: int, table: object) -> KeyRow:
    try:
        return _RowModel.model_validate(table).row()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"[[key]] number {place}{f', {where}' if where else ''}: {first['msg']}") from None


class FileRing:
    """The rows of a keys file. It is looked at again at most once a second, when a key is asked for.

    A file that became broken or unreadable keeps the rows that were read last, and the log says so once.

    Args:
        path: The file.
        clock: A monotonic clock, in seconds.

    Raises:
        ValueError: The file cannot be read, or is wrong, at the start.
    """

    RECHECK = 1.0

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._generation = 0
        self._stamp = self._read_stamp()
        self._rows = self._load()
        self._checked = clock()

    @property
    def generation(self) -> int:
        """Counts the times that the file was read; looks at the file when that was not done lately."""
        self._refresh()
        return self._generation

    async def find(self, project: str, kid: str) -> KeyRow | None:
        """The row of that name, or None."""
        self._refresh()
        return await self._rows.find(project, kid)

    def _read_stamp(self) -> tuple[int, ...]:
        try:
            status = self._path.stat()
        except OSError:
            return ()
        return (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)

    def _load(self) -> StaticRing:
        try:
            if self._path.stat().st_mode & (stat.S_IWOTH | stat.S_IWGRP):
                raise ValueError("can be written by anybody: chmod 600 it")
            return StaticRing(parse_keys(self._path.read_text("utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"keys file {self._path} cannot be read: {type(error).__name__}") from None
        except ValueError as error:
            raise ValueError(f"keys file {self._path} {error}") from None

    def _refresh(self) -> None:
        now = self._clock()
        if now - self._checked < self.RECHECK:
            return
        self._checked = now
        stamp = self._read_stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._rows = self._load()
        except ValueError as error:
            log.error("keys file kept as it was", reason=str(error))
            return
        self._generation += 1
        log.info("keys file read again", path=str(self._path))
