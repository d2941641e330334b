"""`meshkit keys`: what another project needs to let this one call its services."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Annotated

import typer

from meshkit.cli.output import ExitCode, Failure, note, say, show_json

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(help="Hand out keys.", no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def keys() -> None:
    """Hand out keys."""


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
