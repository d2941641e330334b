"""`meshkit revoke`: have every service refuse tokens before their time."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from meshkit.cli.output import ExitCode, Failure, note, say, show_json
from meshkit.cli.sharedredis import author, printable, with_redis
from meshkit.cli.tables import show, table_of

if TYPE_CHECKING:
    from meshkit.config import SharedConfig
    from meshkit.security.revoking import Revocation, RevocationTable

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def revoke() -> None:
    """Have every service refuse tokens before their time.

    Writes into the Redis of REDIS_URL, sealed with REDIS_SECRET_KEY; every service of the mesh knows it within a
    second, and ends the streams of such tokens. Whoever holds the project's secret can make other tokens: where that
    got out, retire the key (`meshkit projects add PROJECT --kid KID --status retired`).
    """


@app.command()
def token(
    jti: Annotated[
        str, typer.Argument(metavar="JTI", help="The token's id; `meshkit token inspect` tells it.")
    ],
    as_json: AsJson = False,
) -> None:
    """Revoke one token. An id that begins with - comes behind --."""
    from meshkit.security.revoking import LONGEST_S, MAX_JTI, Revocation

    if not (0 < len(jti) <= MAX_JTI and jti.isprintable()):
        raise Failure(f"JTI is not 1 to {MAX_JTI} printable characters", code=ExitCode.USAGE)

    async def work(table: RevocationTable, _config: SharedConfig) -> Revocation:
        until = math.ceil(time.time() + LONGEST_S)  # services may take longer ones than the settings here say
        revocation = Revocation(jti=jti, until=until, by=author())
        await table.add(revocation)
        return revocation

    _tell(asyncio.run(_with_table(work)), f"the token {jti} is revoked", as_json=as_json)


@app.command()
def project(
    name: Annotated[str, typer.Argument(metavar="PROJECT", help="The project.")],
    before: Annotated[
        str,
        typer.Option(
            metavar="TIME", help="Only tokens made before that, as 2027-01-31T12:00:00Z or Unix seconds; now."
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Revoke all tokens of a project that were made until now; its services make themselves new ones at once."""
    from meshkit.security.keys import PROJECT
    from meshkit.security.revoking import Revocation

    if not PROJECT.fullmatch(name):
        raise Failure(f"{name!r} is no project ({PROJECT.pattern})", code=ExitCode.USAGE)
    moment = _moment(before)

    async def work(table: RevocationTable, config: SharedConfig) -> Revocation:
        if moment > time.time() + config.clock_skew_s:
            raise Failure(
                "--before is in the future: to shut a project out, retire its keys with `meshkit projects`",
                code=ExitCode.USAGE,
            )
        revocation = Revocation(project=name, before=moment, by=author())
        await table.add(revocation)
        return revocation

    revocation = asyncio.run(_with_table(work))
    said = f"all tokens of {name} that were made before {_written(moment)} are revoked"
    _tell(revocation, said, as_json=as_json)


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """Show what is revoked. Exits with 1 where something in Redis is no revocation: services ignore it."""
    found = asyncio.run(_with_table(lambda table, _config: table.all()))
    usable = [each for each in found if not isinstance(each, ValueError)]
    broken = [each for each in found if isinstance(each, ValueError)]
    if as_json:
        show_json([*map(_object, usable), *({"unusable": str(each)} for each in broken)])
    elif usable:
        show(table_of(("revoked", "until", "by"), [_cells(each) for each in usable]))
    elif not broken:
        note("nothing is revoked")
    for each in broken:
        note(f"a member cannot be used, and services ignore it: {each}")
    if broken:
        raise typer.Exit(ExitCode.FAILED)


async def _with_table(work: Callable[[RevocationTable, SharedConfig], Awaitable[T]]) -> T:
    from meshkit.redis.database import Database
    from meshkit.redis.sealing import Sealer
    from meshkit.security.revoking import RevocationTable

    async def with_table(database: Database, config: SharedConfig) -> T:
        if config.shield_grpc_url:
            note(
                "this mesh has a Shield: it must have this REDIS_URL, too, or it exchanges such tokens for new ones; "
                "`meshkit shield revoke` needs no Redis"
            )
        sealer = Sealer(config.sealing_keys)
        return await work(RevocationTable(database, namespace=config.namespace, sealer=sealer), config)

    return await with_redis("revocations are kept", with_table)


def _moment(text: str) -> int:
    """The Unix time of a text, in whole seconds; of none, now. Tokens say in whole seconds when they were made."""
    if not text:
        return math.ceil(time.time())
    try:
        if text.isascii() and text.isdecimal():
            return int(text[:20])
        at = datetime.fromisoformat(text)
        return math.ceil((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        raise Failure(
            f"--before {text!r} is no time: write 2027-01-31T12:00:00Z, or Unix seconds", code=ExitCode.USAGE
        ) from None


def _tell(revocation: Revocation, said: str, *, as_json: bool) -> None:
    if as_json:
        show_json(_object(revocation))
    else:
        say(said)


def _object(revocation: Revocation) -> dict[str, object]:
    ends = datetime.fromtimestamp(revocation.ends, UTC).isoformat()
    if revocation.jti:
        return {"jti": revocation.jti, "until": ends, "by": revocation.by}
    before = datetime.fromtimestamp(revocation.before, UTC).isoformat()
    return {"project": revocation.project, "before": before, "until": ends, "by": revocation.by}


def _cells(revocation: Revocation) -> tuple[str, ...]:
    what = f"token {printable(revocation.jti)}"
    if not revocation.jti:
        what = f"tokens of {revocation.project} made before {_written(revocation.before)}"
    return (what, _written(revocation.ends), printable(revocation.by))


def _written(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
