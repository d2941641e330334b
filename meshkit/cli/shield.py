"""`meshkit shield`: what an operator of Shield does."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from meshkit.cli.output import ExitCode, Failure, note, say, show_json
from meshkit.cli.tables import show, table_of

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from meshkit.protocol import ShieldClient, shield
    from meshkit.security.keys import KeyRow

app = typer.Typer(help="Operate Shield.", no_args_is_help=True, pretty_exceptions_enable=False)
projects_app = typer.Typer(help="Projects and what their tokens may say.", no_args_is_help=True)
audit_app = typer.Typer(help="The audit log.", no_args_is_help=True)
app.add_typer(projects_app, name="projects")
app.add_typer(audit_app, name="audit")

T = TypeVar("T")
Names = list[str] | None

PROJECT_COLUMNS = ("project", "keys", "tenants", "permissions", "subjects", "audiences", "delegate", "by")
KEY_COLUMNS = ("kid", "state", "signs from", "verifies until")
MAX_KEYS_FILE = 64 * 1024
"""Bytes read of a file of keys."""


@app.callback()
def operate() -> None:
    """Operate Shield: projects, keys, revocations, and its audit log.

    Calls the Shield of CU_SHIELD_GRPC_URL, or the one in the registry, as the project of CU_PROJECT_ID; Shield's own
    project may do everything. The audit log is read from Shield's database, where Shield runs.
    """


@projects_app.command()
def put(
    project: Annotated[str, typer.Argument(metavar="PROJECT", help="The project.")],
    keys: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="What its `meshkit keys export --for shield` printed; - reads standard input. Without it, keys stay.",
        ),
    ] = None,
    tenant: Annotated[Names, typer.Option(metavar="T", help="A tenant of its tokens; * for all.")] = None,
    permission: Annotated[
        Names, typer.Option(metavar="P", help="A right of its tokens: service:verb, service:* or *.")
    ] = None,
    subject: Annotated[
        Names, typer.Option(metavar="NAME", help="A name that its services may have; * for any.")
    ] = None,
    audience: Annotated[
        Names, typer.Option(metavar="SERVICE", help="A service that it may call; * for all.")
    ] = None,
    delegate: Annotated[
        Names, typer.Option(metavar="PROJECT", help="A project on whose callers' behalf it may call.")
    ] = None,
    max_lifetime: Annotated[
        float, typer.Option(metavar="SECONDS", help="Longest life of its tokens; 0 leaves it to Shield.")
    ] = 0.0,
    disabled: Annotated[bool, typer.Option("--disabled", help="Issue nothing to it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a project and what its tokens may say, in place of what stood there. Each option several times."""
    from meshkit.protocol import shield

    rows = [] if keys is None else _keys_of(keys, project)
    message = shield.Project(
        project_id=project,
        keys=[_project_key(row) for row in rows],
        tenants=tenant or [],
        permissions=permission or [],
        subjects=subject or [],
        audiences=audience or [],
        delegate=delegate or [],
        disabled=disabled,
    )
    if max_lifetime:
        message.max_lifetime.FromMilliseconds(int(max_lifetime * 1000))
    request = shield.PutProjectRequest(project=message, keep_keys=keys is None)
    stored = asyncio.run(_asking(lambda client: client.put_project(request))).project
    if as_json:
        show_json(_project_object(stored))
    note(f"{project} is {'disabled' if disabled else 'written'}, with {_keys(stored)}")


@projects_app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show the projects that Shield knows besides its own."""
    found = asyncio.run(_asking(_projects))
    if as_json:
        show_json([_project_object(project) for project in found])
    elif found:
        show(table_of(PROJECT_COLUMNS, [_project_cells(project) for project in found], expendable=("by",)))
    else:
        note("Shield knows no project besides its own")


@app.command()
def keys(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show the keys that verify tokens."""
    from meshkit.protocol import shield

    reply = asyncio.run(_asking(lambda client: client.get_keys(shield.GetKeysRequest())))
    _show_keys(list(reply.keys), as_json=as_json)


@app.command()
def rotate(
    retire_others: Annotated[
        bool,
        typer.Option("--retire-others", help="Refuse all other keys, and their tokens, at once: one leaked."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make another key to sign with. The one before verifies until the last token that it signed has ended."""
    from meshkit.protocol import shield

    request = shield.RotateKeysRequest(retire_others=retire_others)
    reply = asyncio.run(_asking(lambda client: client.rotate_keys(request)))
    _show_keys(list(reply.keys), as_json=as_json)


@app.command()
def revoke(
    token: Annotated[str, typer.Option("--token", metavar="JTI", help="The `jti` of a token.")] = "",
    project: Annotated[
        str, typer.Option(metavar="PROJECT", help="A project: all its tokens of before now.")
    ] = "",
) -> None:
    """Take tokens back: one, with all that were exchanged for it, or all of a project. Verifiers know in a second."""
    from meshkit.protocol import shield

    if bool(token) == bool(project):
        raise Failure("give either --token or --project", code=ExitCode.USAGE)
    request = shield.RevokeRequest(token_id=token) if token else shield.RevokeRequest(project_id=project)
    revision = asyncio.run(_asking(lambda client: client.revoke(request))).revision
    note(f"revoked, with revision {revision}")


@audit_app.callback()
def audit() -> None:
    """What Shield did, for whom, when."""


@audit_app.command()
def verify(
    head: Annotated[
        str,
        typer.Option(metavar="NUMBER:MAC", help="What this said before: the log must still hold that entry."),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check that no entry of the audit log was changed, put in or taken out, and that it was not cut short.

    Reads Shield's database with SHIELD_MASTER_KEY, also while Shield runs. Exits with 1 where something is wrong, and
    says where. Keep what it prints in another place, and give it as --head the next time: so you find out, too, when
    somebody has put an older database back.
    """
    from reference_services.shield.verifying import verify_audit

    found = verify_audit(head)
    if as_json:
        show_json(
            {"holds": found.fault is None, "fault": found.fault, "entries": found.entries, "head": found.head}
        )
    elif found.fault is None:
        say(found.head)
    if found.fault is not None:
        raise Failure(f"the audit log does not hold: {found.fault}")
    note(f"the audit log holds, with {found.entries} entries")


async def _projects(client: ShieldClient) -> list[shield.Project]:
    from meshkit.protocol import shield

    found: list[shield.Project] = []
    while True:
        after = found[-1].project_id if found else ""
        page = await client.list_projects(shield.ListProjectsRequest(after=after))
        found += page.projects
        if not page.more:
            return found


async def _asking(question: Callable[[ShieldClient], Awaitable[T]]) -> T:
    async with _client() as client:
        return await question(client)


@asynccontextmanager
async def _client() -> AsyncIterator[ShieldClient]:
    """The Shield that the settings name, or else the one in the registry."""
    from meshkit.cli.finding import settings
    from meshkit.mesh import Mesh, mesh_of_shield
    from meshkit.protocol import ShieldClient
    from meshkit.telemetry.logs import configure

    config = await settings()
    configure("WARNING", json=False)
    async with mesh_of_shield(config, "") if config.shield_grpc_url else Mesh(config) as mesh:
        yield mesh.client(ShieldClient)


def _keys_of(file: Path, project: str) -> list[KeyRow]:
    """The rows of a file that are the project's.

    Raises:
        Failure: It cannot be read, or is no such file.
    """
    from meshkit.security.keysfile import parse_keys

    try:
        text = sys.stdin.read(MAX_KEYS_FILE) if str(file) == "-" else file.read_text("utf-8")[:MAX_KEYS_FILE]
        rows = parse_keys(text)
    except OSError as error:
        raise Failure(f"{file} cannot be read: {error.strerror}", code=ExitCode.USAGE) from None
    except ValueError as error:
        raise Failure(f"{file} {error}", code=ExitCode.USAGE) from None
    strangers = sorted({row.project for row in rows} - {project})
    if strangers or not rows:
        what = f"keys of {', '.join(strangers)}" if strangers else "no keys"
        raise Failure(f"{file} holds {what}: give the keys of {project}", code=ExitCode.USAGE)
    if any(row.keys is None and row.secret is not None for row in rows):
        raise Failure(
            f"{file} holds a secret: give what `meshkit keys export --for shield` prints", code=ExitCode.USAGE
        )
    return rows


def _project_key(row: KeyRow) -> shield.ProjectKey:
    from meshkit.protocol import shield
    from meshkit.security.keys import KeyStatus

    made = shield.ProjectKey(kid=row.kid, retired=row.status is KeyStatus.RETIRED)
    if row.keys is not None:
        made.token_key, made.proof_key = row.keys.token, row.keys.proof
    return made


def _show_keys(found: list[shield.VerificationKey], *, as_json: bool) -> None:
    rows = [
        (
            key.kid,
            _state(key),
            _moment(key.signs_from),
            _moment(key.verifies_until) if key.HasField("verifies_until") else "it is replaced",
        )
        for key in found
    ]
    if as_json:
        show_json([dict(zip(KEY_COLUMNS, row, strict=True)) for row in rows])
    else:
        show(table_of(KEY_COLUMNS, rows))


def _state(key: shield.VerificationKey) -> str:
    from meshkit.protocol import shield

    return shield.KeyState.Name(key.state).removeprefix("KEY_STATE_").lower()


def _moment(at: Timestamp) -> str:
    return at.ToDatetime().strftime("%Y-%m-%d %H:%M:%S UTC")


def _keys(project: shield.Project) -> str:
    listed = ", ".join(f"{key.kid}{' (retired)' if key.retired else ''}" for key in project.keys)
    return listed or "no keys"


def _project_cells(project: shield.Project) -> tuple[str, ...]:
    lists = (project.tenants, project.permissions, project.subjects, project.audiences, project.delegate)
    name = f"{project.project_id} (disabled)" if project.disabled else project.project_id
    return (name, _keys(project), *(", ".join(names) or "none" for names in lists), project.updated_by)


def _project_object(project: shield.Project) -> dict[str, Any]:
    return {
        "project": project.project_id,
        "keys": [{"kid": key.kid, "retired": key.retired} for key in project.keys],
        "tenants": list(project.tenants),
        "permissions": list(project.permissions),
        "subjects": list(project.subjects),
        "audiences": list(project.audiences),
        "delegate": list(project.delegate),
        "max_lifetime_s": project.max_lifetime.ToMilliseconds() / 1000,
        "disabled": project.disabled,
        "updated_at": _moment(project.updated_at),
        "updated_by": project.updated_by,
    }
