"""`meshkit keys`: this project's own secrets, in the file of CU_PROJECT_SECRET_FILE, and what others need of them.

Keys of other projects are rows: of a keys file, which their operators fill with what `export` prints, or of the project
store (`meshkit projects`). `list` shows all that services with these settings know.
"""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meshkit.cli.output import ExitCode, Failure, note, say, show_json
from meshkit.cli.secretfile import SecretFile
from meshkit.cli.tables import show, table_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshkit.config import SharedConfig
    from meshkit.security.keys import KeyRow

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)

File = Annotated[Path, typer.Argument(metavar="FILE", help="The file that CU_PROJECT_SECRET_FILE names.")]
Kid = Annotated[str, typer.Option(metavar="KID", help="Name of the secret.")]


@app.callback()
def keys() -> None:
    """Make, rotate and hand out this project's keys.

    Services read the file again by themselves, within two seconds of its change. To rotate, and lose no call: `new`,
    which all services of the project then know; `rotate`, by which they then sign; `retire` the old one when its last
    tokens have ended. Between two steps all must have read the file; scripts have to be started again.
    Other projects' keys are in the project store: `meshkit projects`.
    """


@app.command()
def new(file: File, kid: Kid = "") -> None:
    """Make a secret: in a new file, or behind those that the file has. It verifies, and does not sign yet."""
    made = SecretFile(file).add(kid)
    note(
        f"{made} is in {file}: it {'signs' if SecretFile(file).kids()[0] == made else 'verifies, and does not sign'}"
    )


@app.command()
def rotate(file: File) -> None:
    """Have the newest secret sign, which is the last in the file; the others verify still."""
    secrets = SecretFile(file)
    secrets.promote()
    note(f"{secrets.kids()[0]} signs; {', '.join(secrets.kids()[1:])} verify still")


@app.command()
def retire(
    file: File, kid: Annotated[str, typer.Argument(metavar="KID", help="Name of the secret.")]
) -> None:
    """Take a secret out of the file. Only one that does not sign can be."""
    SecretFile(file).remove(kid)
    note(f"{kid} is out of {file}: services refuse it when they have read the file again")


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show the keys that services with these settings know, in the order in which they look; no secrets."""
    from meshkit.cli.finding import settings

    rows = asyncio.run(_known(asyncio.run(settings())))
    if as_json:
        show_json([dict(zip(LISTED, row, strict=True)) for row in rows])
    else:
        show(table_of(LISTED, rows))


LISTED = ("project", "kid", "status", "found in")


async def _known(config: SharedConfig) -> list[tuple[str, str, str, str]]:
    """Project, kid, status and place of each key, in the order in which rings are asked."""
    from meshkit.cli.projects import stored_keys
    from meshkit.security.keysfile import read_keys

    secrets = config.ensure_project_secrets()
    known = [
        (config.project_id, secret.kid, "signs" if place == 0 else "verifies", "own secrets")
        for place, secret in enumerate(secrets)
    ]

    def add(rows: Sequence[KeyRow], place: str) -> None:
        known.extend((row.project, row.kid, row.status.value, place) for row in rows)

    if config.project_keys_file is not None:
        try:
            add(read_keys(config.project_keys_file), "keys file")
        except ValueError as error:
            raise Failure(str(error)) from None
    if config.redis is not None and config.sealing_keys:
        add(await stored_keys(), "project store")
    return known


@app.command()
def export(
    service: Annotated[
        str,
        typer.Option("--for", metavar="SERVICE", help="The service that shall take this project's calls."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print this project's keys for one service, as rows of that service's keys file.

    They are derived from the project's secrets, which they do not tell, and are good for that service only.
    """
    from meshkit.config import SharedConfig
    from meshkit.instance import SERVICE_NAME
    from meshkit.security.keys import KeyStatus, service_keys

    if not SERVICE_NAME.fullmatch(service):
        raise Failure(f"--for {service!r} is no service's name ({SERVICE_NAME.pattern})", code=ExitCode.USAGE)
    config = SharedConfig.load()
    rows = []
    for place, own in enumerate(config.ensure_project_secrets()):
        derived = service_keys(
            own.secret.encode(), namespace=config.namespace, project=config.project_id, service=service
        )
        rows.append(
            {
                "project": config.project_id,
                "kid": own.kid,
                "status": (KeyStatus.ACTIVE if place == 0 else KeyStatus.RETIRING).value,
                "token_key": _encoded(derived.token),
                "proof_key": _encoded(derived.proof),
            }
        )
    if as_json:
        show_json(rows)
    else:
        say(_toml(rows, config.project_id, service, config.namespace))
    note(
        f"who has these keys can call {service} as project {config.project_id}: send them as you would a password"
    )


def _toml(rows: Sequence[dict[str, str]], project: str, service: str, namespace: str) -> str:
    lines = [
        f"# Keys with which {service} verifies calls of project {project} in namespace {namespace}.",
        f"# For the operator of {service}: put these rows into the file that CU_PROJECT_KEYS_FILE of {service} names",
        "# (chmod 600, or it is refused), and state under each what it may do. Without grants it may do nothing.",
        "#",
        "#     [key.grants]",
        '#     tenants = ["acme"]            # may call for these tenants',
        f'#     permissions = ["{service}:read"]   # may do this',
        '#     subjects = ["router"]         # may say that it is one of these',
        "#     delegate = []                 # may call on behalf of callers of these projects",
        "#",
        '# The file is read again within about a second. To shut a key out: status = "retired".',
    ]
    for row in rows:
        lines += ["", "[[key]]", *(f'{name} = "{value}"' for name, value in row.items())]
    return "\n".join(lines)


def _encoded(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).rstrip(b"=").decode("ascii")
