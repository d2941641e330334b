"""`meshkit projects`: keys of other projects, kept in the Redis of the mesh for all its services."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from meshkit.cli.output import ExitCode, Failure, note, say, show_json
from meshkit.cli.projectkey import LISTS, Draft
from meshkit.cli.secrets import given_secret, new_file
from meshkit.cli.sharedredis import author, printable
from meshkit.cli.tables import show, table_of
from meshkit.security.keys import Grants, KeyRow, KeyStatus

if TYPE_CHECKING:
    from meshkit.config import SharedConfig
    from meshkit.redis.database import Database
    from meshkit.security.projects import ProjectTable
    from meshkit.security.projects.table import Stored

app = typer.Typer(
    help="Let other projects call: their keys, for all services of the mesh.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

T = TypeVar("T")

COLUMNS = (
    "project",
    "kid",
    "status",
    "tenants",
    "permissions",
    "subjects",
    "delegate",
    "written",
    "by",
)

Project = Annotated[str, typer.Argument(metavar="PROJECT", help="The project.")]
Names = list[str] | None


@app.callback()
def projects() -> None:
    """Let other projects call: their keys, for all services of the mesh.

    Works on the project store in the Redis of REDIS_URL, sealed with REDIS_SECRET_KEY.
    """


@app.command()
def add(
    project: Project,
    kid: Annotated[
        str, typer.Option(metavar="KID", help="Name of the key; by default made of its secret.")
    ] = "",
    tenant: Annotated[
        Names, typer.Option(metavar="T", help="A tenant it may call for, several times; * for all.")
    ] = None,
    permission: Annotated[
        Names, typer.Option(metavar="P", help="What it may do, service:verb, service:* or *, several times.")
    ] = None,
    subject: Annotated[
        Names,
        typer.Option(metavar="NAME", help="A name that its callers may have, several times; * for any."),
    ] = None,
    delegate: Annotated[
        Names,
        typer.Option(
            metavar="PROJECT", help="A project on whose callers' behalf it may call, several times."
        ),
    ] = None,
    status: Annotated[
        KeyStatus, typer.Option(help="Whether it verifies; retired: refused, wherever else the key is found.")
    ] = KeyStatus.ACTIVE,
    secret_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File with the project's secret; - reads standard input."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="New file for a secret that is made, instead of printing it."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a project's key, with what it may do; every service of the mesh knows it within a second.

    The secret is read with --secret-file, as KID:SECRET or alone. Without it a key that is there keeps its secret,
    and for a new one a secret is made, shown once: it is what the project's services have as CU_PROJECT_SECRET.

    Of a key that is there, the lists that are given replace its own, and others stay; an empty name ("") empties
    one. Without grants a key may do nothing. A retired key's secret is not kept.
    """
    given = None if secret_file is None else given_secret(secret_file, kid)
    draft = Draft(project, kid, status, _lists(tenant, permission, subject, delegate), given)
    if out is None:
        before, row = asyncio.run(_add(draft, None))
    elif given is not None or status is KeyStatus.RETIRED:
        raise Failure("--out is for a secret that is made, and none is", code=ExitCode.USAGE)
    else:
        with new_file(out) as write:
            before, row = asyncio.run(_add(draft, write))
    _tell_added(draft, before, row, out, as_json=as_json)


@app.command("list")
def list_(
    everything: Annotated[bool, typer.Option("--all", help="Show removed keys, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the keys, without their secrets. Exits with 1 where a row cannot be used: services ignore it."""
    found = asyncio.run(_with_table(lambda table: table.rows()))
    usable = [each for each in found if each.row is not None and (everything or each.row.key is not None)]
    broken = [each for each in found if each.row is None]
    if as_json:
        show_json([_as_object(each) for each in (*usable, *broken)])
    elif usable:
        show(table_of(COLUMNS, [_cells(each) for each in usable], expendable=("delegate", "by", "subjects")))
    elif not broken:
        note("no keys; write one with `meshkit projects add PROJECT`")
    for each in broken:
        note(f"the row {printable(each.field)} cannot be used, and services ignore it: {each.refusal}")
    if broken:
        raise typer.Exit(ExitCode.FAILED)


@app.command()
def remove(
    project: Project,
    kid: Annotated[
        str, typer.Option(metavar="KID", help="This key only; by default all of the project's.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Take a project's keys out: services refuse them within a second, unless they find them elsewhere.

    To refuse a key wherever it is found, add it with --status retired.
    """
    _check_name(project, kid or "any")
    kids = asyncio.run(_with_table(lambda table: _remove(table, project, kid)))
    if as_json:
        show_json([{"project": project, "kid": each} for each in kids])
    else:
        for each in kids:
            say(f"removed {project}:{each}")


@app.command()
def forget(
    days: Annotated[
        float, typer.Option(metavar="DAYS", min=0, max=36500, help="Only what was removed so long ago.")
    ] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Delete what the store keeps of removed keys, to make room.

    It is kept so that nobody can put an old copy of a key's row back into Redis. Such a copy opens no longer once the
    sealing keys of its time are taken out of REDIS_SECRET_KEY: see `meshkit registry reseal`.
    """
    forgotten = asyncio.run(_with_table(lambda table: table.forget(days)))
    if as_json:
        show_json({"forgotten": forgotten})
    else:
        say(f"{forgotten} removed keys forgotten")


async def _add(draft: Draft, write: Callable[[str], None] | None) -> tuple[KeyRow | None, KeyRow]:
    """Writes a key; a secret that was made is in its file before anybody knows the key."""
    written = False

    def revise(before: KeyRow | None) -> KeyRow:
        nonlocal written
        row = draft.revise(before)
        if write is not None and not written:
            if draft.made is None:
                raise Failure("--out is for a secret that is made: this key is there, and keeps its own")
            write(f"{draft.made.kid}:{draft.made.secret}\n")
            written = True
        return row

    return await _with_table(lambda table: table.change(draft.project, draft.kid, revise))


def _tell_added(draft: Draft, before: KeyRow | None, row: KeyRow, out: Path | None, *, as_json: bool) -> None:
    shown = f"{draft.made.kid}:{draft.made.secret}" if draft.made is not None and out is None else None
    if as_json:
        show_json(_row_object(row) | ({} if shown is None else {"secret": shown}))
    elif shown is not None:
        say(shown)
    note(
        f"{row.project}:{row.kid} is {'added' if before is None else 'written anew'}, and {row.status.value}"
    )
    if draft.made is not None:
        where = f"in {out}" if out is not None else "printed this once"
        note(
            f"its secret is {where}: it is CU_PROJECT_SECRET of the services with CU_PROJECT_ID={row.project}"
        )
    if before is not None and before.secret is not None and row.secret is None:
        note("its secret is kept no longer")
    for name in ("tenant", "permission", "subject"):
        if row.status is not KeyStatus.RETIRED and not getattr(row.grants, f"{name}s"):
            note(f"it is granted no {name}: without --{name} hardly a call is let in")


async def _remove(table: ProjectTable, project: str, kid: str) -> list[str]:
    from meshkit.errors import NotFound

    removed = []
    for each in [kid] if kid else await _kids(table, project):
        with suppress(NotFound):
            await table.remove(project, each)
            removed.append(each)
    if not removed:
        what = f"no key {project}:{kid}" if kid else f"no key of {project}"
        raise Failure(
            f"there is {what} in the project store; to have services refuse one all the same: meshkit projects add "
            f"{project} --kid {kid or 'KID'} --status retired"
        )
    return removed


async def stored_keys() -> list[KeyRow]:
    """The keys of the project store that the settings name.

    Raises:
        Failure: It cannot be read.
    """
    found = await _with_table(lambda table: table.rows())
    return [each.row.key for each in found if each.row is not None and each.row.key is not None]


async def _kids(table: ProjectTable, project: str) -> list[str]:
    from meshkit.security.keys import KID

    names = [each.field.partition(":") for each in await table.rows()]
    return [kid for owner, _, kid in names if owner == project and KID.fullmatch(kid)]


async def _with_table(work: Callable[[ProjectTable], Awaitable[T]]) -> T:
    """Does something with the project store that the settings name.

    Raises:
        ConfigError: They name none.
        Failure: It cannot be read or written.
    """
    from meshkit.cli.sharedredis import with_redis
    from meshkit.config import ConfigError, Problem
    from meshkit.redis.sealing import Sealer
    from meshkit.security.projects import ProjectTable
    from meshkit.security.projects.rows import RowRefused

    async def with_table(database: Database, config: SharedConfig) -> T:
        if not config.sealing_keys:
            what = "is false, and the project store holds secrets, which are not written in plain"
            mend = "set it, to the same for all services of the mesh"
            raise ConfigError([Problem("REDIS_SECRET_KEY", what, mend)])
        if config.shield_grpc_url:
            note(
                "this mesh has a Shield: services take no keys of the project store, use `meshkit shield projects`"
            )
        sealer = Sealer(config.sealing_keys)
        table = ProjectTable(database, namespace=config.namespace, sealer=sealer, author=author())
        try:
            return await work(table)
        except RowRefused as error:
            raise Failure(f"{error}; or remove it first") from None

    return await with_redis("the project store is", with_table)


def _lists(*given: Names) -> dict[str, frozenset[str]]:
    """The lists of grants that were given, by name; an empty name stands for none."""
    return {
        name: frozenset(each for each in values if each)
        for name, values in zip(LISTS, given, strict=True)
        if values is not None
    }


def _check_name(project: str, kid: str) -> None:
    from meshkit.security.keys import KID, PROJECT

    if not PROJECT.fullmatch(project):
        raise Failure(f"{project!r} is no project ({PROJECT.pattern})", code=ExitCode.USAGE)
    if not KID.fullmatch(kid):
        raise Failure(f"--kid {kid!r} is no kid ({KID.pattern})", code=ExitCode.USAGE)


def _cells(stored: Stored) -> Sequence[str]:
    row = stored.row
    assert row is not None
    at = datetime.fromtimestamp(row.written_at / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    grants = row.key.grants if row.key is not None else Grants()
    lists = (grants.tenants, grants.permissions, grants.subjects, grants.delegate)
    status = row.key.status.value if row.key is not None else "removed"
    return (row.project, row.kid, status, *(_brief(names) for names in lists), at, row.written_by)


def _brief(names: frozenset[str]) -> str:
    text = ", ".join(sorted(names)[:5])
    return f"{text}, {len(names) - 5} more" if len(names) > 5 else text or "none"


def _as_object(stored: Stored) -> dict[str, Any]:
    row = stored.row
    if row is None:
        return {"row": stored.field, "unusable": stored.refusal}
    key: dict[str, Any] = {"project": row.project, "kid": row.kid, "status": "removed"}
    if row.key is not None:
        key = _row_object(row.key)
    at = datetime.fromtimestamp(row.written_at / 1000, UTC)
    return key | {"written_at": at.isoformat(), "written_by": row.written_by}


def _row_object(row: KeyRow) -> dict[str, Any]:
    from meshkit.security.keyrows import dump_grants

    return {
        "project": row.project,
        "kid": row.kid,
        "status": row.status.value,
        "grants": dump_grants(row.grants),
    }
