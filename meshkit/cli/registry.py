"""`meshkit registry`: what stands in a registry in Redis, and with which keys it is sealed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshkit.cli.finding import settings
from meshkit.cli.nearest import did_you_mean
from meshkit.cli.output import ExitCode, Failure, note, say, show_json
from meshkit.cli.sight import clipped
from meshkit.cli.tables import show, table_of

if TYPE_CHECKING:
    from meshkit.config import SharedConfig
    from meshkit.discovery.redis import RedisRegistry
    from meshkit.discovery.redis.inventory import Row

COLUMNS = ("service", "instance", "sealed with", "lease left", "state", "address", "problem")

app = typer.Typer(
    help="Look into the registry in Redis.", no_args_is_help=True, pretty_exceptions_enable=False
)


@app.callback()
def registry() -> None:
    """Look into the registry in Redis, and seal it anew.

    Works on the registry of CU_REGISTRY_URL or REDIS_URL with the keys of
    REDIS_SECRET_KEY; other registries have no rows to look at: `meshkit services`
    shows their instances.
    """


@app.command("list")
def list_rows(
    service: Annotated[str | None, typer.Argument(metavar="SERVICE", help="This service only.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Shows each row, and why it cannot be used where it cannot. Exits with 1 if there is such a row."""
    found = asyncio.run(_rows(service))
    if as_json:
        show_json([_document(row) for row in found])
    elif found:
        show(table_of(COLUMNS, [_cells(row) for row in found], expendable=("address", "lease left")))
    else:
        note("the registry holds nobody")
    if any(row.problem for row in found):
        raise typer.Exit(ExitCode.FAILED)


@app.command()
def inspect(
    instance_id: Annotated[str, typer.Argument(metavar="INSTANCE", help="Id of the instance.")],
) -> None:
    """Prints a row as JSON: all that its record holds, when it was written, how it is sealed."""
    found = asyncio.run(_rows(None))
    rows = [row for row in found if row.instance_id == instance_id]
    if not rows:
        hint = did_you_mean(instance_id, [row.instance_id for row in found])
        raise Failure(f"the registry has no row {instance_id!r}{hint}")
    show_json([_document(row) for row in rows] if len(rows) > 1 else _document(rows[0]))
    if any(row.problem for row in rows):
        raise typer.Exit(ExitCode.FAILED)


@app.command()
def reseal(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Seals with the first key of REDIS_SECRET_KEY what is not, so that the others can be taken out.

    Rows of projects are sealed anew. Rows of instances are their owners': those
    that seal with another key are named, and have to be restarted with the new
    REDIS_SECRET_KEY. Exits with 1 while any row still needs another key.
    """
    report = asyncio.run(_reseal())
    if as_json:
        show_json(report)
    else:
        _tell(report)
    if report["refused"] or report["instances_with_other_keys"] or report["changed"]:
        raise typer.Exit(ExitCode.FAILED)


async def _rows(service: str | None) -> list[Row]:
    from meshkit.discovery.redis.inventory import rows

    async with _open() as (found, _):
        names = await found.services()
        if service is not None and service not in names:
            raise Failure(f"the registry has no service {service!r}{did_you_mean(service, names)}")
        listed = [row for name in ([service] if service else names) async for row in rows(found, name)]
    return sorted(listed, key=lambda row: (row.service, row.instance_id))


async def _reseal() -> dict[str, Any]:
    from meshkit.discovery.redis.inventory import rows
    from meshkit.redis.resealing import reseal as reseal_hash
    from meshkit.security.projects.rows import projects_key

    async with _open() as (found, config):
        if found.store.sealer.kid is None:
            raise Failure("REDIS_SECRET_KEY is not set: there is no key to seal with", code=ExitCode.CONFIG)
        tally = await reseal_hash(found.store.database, found.store.sealer, projects_key(config.namespace))
        others = [
            {"instance": row.instance_id, "sealed_with": row.kid, "problem": row.problem}
            for name in await found.services()
            async for row in rows(found, name)
            if row.kid != found.store.sealer.kid or row.problem
        ]
        return {
            "key": found.store.sealer.kid,
            "projects_resealed": tally.resealed,
            "projects_current": tally.current,
            "changed": tally.changed,
            "refused": tally.refused,
            "instances_with_other_keys": others,
        }


@asynccontextmanager
async def _open() -> AsyncIterator[tuple[RedisRegistry, SharedConfig]]:
    from meshkit.discovery import registry_of
    from meshkit.discovery.redis import RedisRegistry
    from meshkit.redis.trouble import RedisTrouble

    config = await settings()
    found = registry_of(config)
    try:
        if not isinstance(found, RedisRegistry):
            raise Failure(
                f"{found} is not in Redis: set REDIS_URL, or look with `meshkit services`",
                code=ExitCode.CONFIG,
            )
        yield found, config
    except RedisTrouble as trouble:
        raise Failure(str(trouble)) from None
    finally:
        await found.close()


def _tell(report: dict[str, Any]) -> None:
    say(
        f"rows of projects: {report['projects_resealed']} sealed anew with {report['key']}, "
        f"{report['projects_current']} were already"
    )
    for name, why in report["refused"].items():
        note(f"project row {name}: {why}")
    if report["changed"]:
        note(f"{report['changed']} rows were changed by somebody else meanwhile: run this again")
    for other in report["instances_with_other_keys"]:
        why = other["problem"] or f"sealed with {other['sealed_with'] or 'no key'}"
        note(f"{other['instance']}: {why}; restart it with the new REDIS_SECRET_KEY")


def _cells(row: Row) -> list[str]:
    return [
        row.service,
        clipped(row.instance_id),
        row.kid or "plain",
        "none" if row.lease_left is None else f"{row.lease_left:.1f} s",
        row.instance.state.value if row.instance else "",
        row.instance.address if row.instance else "",
        row.problem,
    ]


def _document(row: Row) -> dict[str, Any]:
    written = None if row.written_at is None else datetime.fromtimestamp(row.written_at, UTC).isoformat()
    return {
        "service": row.service,
        "instance_id": row.instance_id,
        "sealed_with": row.kid,
        "lease_left_s": None if row.lease_left is None else round(row.lease_left, 3),
        "written_at": written,
        "problem": row.problem or None,
        "record": row.fields,
    }
