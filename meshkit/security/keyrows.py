"""How a key row is written down: checked as it is read, from the keys file or from the project store.

A row is a mapping with `project`, `kid`, `status`, either `secret` or `token_key` and `proof_key` (base64url), and
`grants`. One with the status `retired` needs no keys: it refuses a key wherever else that is found.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from meshkit.security.keys import KID, PROJECT, Grants, KeyRow, KeyStatus, ServiceKeys
from meshkit.security.rights import is_permission, is_tenant

MAX_NAMES = 1000
"""Names in one list of grants."""

MIN_SECRET_BYTES = 32
MAX_SECRET_BYTES = 1024


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
_AtMost = Field(max_length=MAX_NAMES)


class _GrantsModel(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    tenants: Annotated[frozenset[_Tenant], _AtMost] = frozenset()
    permissions: Annotated[frozenset[_Permission], _AtMost] = frozenset()
    subjects: Annotated[frozenset[_Subject], _AtMost] = frozenset()
    delegate: Annotated[frozenset[_Project], _AtMost] = frozenset()


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
        if self.secret is not None:
            _check_secret(self.secret)
        return self

    def row(self) -> KeyRow:
        keys = ServiceKeys(self.token_key, self.proof_key) if self.token_key and self.proof_key else None
        secret = self.secret.encode() if self.secret else None
        return KeyRow(
            self.project, self.kid, self.status, Grants(**dict(self.grants)), secret=secret, keys=keys
        )


def _check_secret(secret: str) -> None:
    try:
        size = len(secret.encode())
    except UnicodeEncodeError:
        size = -1  # raised outside: the error that it replaces holds the secret
    if size < 0:
        raise ValueError("secret is not UTF-8")
    if size < MIN_SECRET_BYTES:
        raise ValueError(f"secret is shorter than {MIN_SECRET_BYTES} bytes")
    if size > MAX_SECRET_BYTES:
        raise ValueError(f"secret is longer than {MAX_SECRET_BYTES} bytes")


def parse_row(fields: object, place: str) -> KeyRow:
    """Reads a row.

    Args:
        fields: A mapping of its fields.
        place: What errors call the row.

    Raises:
        ValueError: What is wrong, and in which field; never a key.
    """
    try:
        return _RowModel.model_validate(fields).row()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    raise ValueError(f"{place}{f', {where}' if where else ''}: {first['msg']}")


def dump_row(row: KeyRow) -> dict[str, Any]:
    """The fields of a row, as `parse_row` takes them. They hold its keys."""
    fields: dict[str, Any] = {"project": row.project, "kid": row.kid, "status": row.status.value}
    if row.secret is not None:
        fields["secret"] = row.secret.decode()
    if row.keys is not None:
        fields |= {"token_key": _encode(row.keys.token), "proof_key": _encode(row.keys.proof)}
    return fields | {"grants": dump_grants(row.grants)}


def dump_grants(grants: Grants) -> dict[str, list[str]]:
    """The four lists of grants, each sorted."""
    return {
        "tenants": sorted(grants.tenants),
        "permissions": sorted(grants.permissions),
        "subjects": sorted(grants.subjects),
        "delegate": sorted(grants.delegate),
    }


def _encode(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).rstrip(b"=").decode("ascii")
