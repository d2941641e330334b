"""`meshkit certs`: an authority of the mesh's own, what it signs, and what certificate files hold."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from meshkit.cli.output import ExitCode, Failure, note, say, show_json, shown
from meshkit.cli.tables import show, table_of
from meshkit.config.certificates import moment
from meshkit.instance import SERVICE_NAME

if TYPE_CHECKING:
    from meshkit.config import SharedConfig
    from meshkit.security.certificates.folder import CertificateFolder
    from meshkit.security.certificates.inspection import Inspected

T = TypeVar("T")

DEFAULT_SERVICES = ("brain", "router", "worker", "zero", "shield")
MAX_DAYS = 3650.0

_NEEDED = frozenset({"CU_NAMESPACE", "CU_STATE_DIR", "CU_CONFIG_FILE", ".env"})
"""Settings without which it is not known what to make, and where."""

_HOST = re.compile(r"[A-Za-z0-9*]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?")

app = typer.Typer(
    help="Make, renew and look at certificates.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Folder = Annotated[
    Path | None,
    typer.Option("--folder", metavar="DIR", help="The folder; `tls` in the state folder by default."),
]
Days = Annotated[
    float,
    typer.Option(
        min=0.01, max=MAX_DAYS, help="Days that certificates hold; never longer than the authority."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def dev(
    services: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SERVICE]…", help="Who needs one; by default the reference services."),
    ] = None,
    days: Days = 7.0,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Make an authority, and certificates for services and for `client`, where they are missing or to be renewed.

    It says how to use them. Whoever has the authority's key can be any service
    of the mesh: it is for a machine of your own, or to be kept elsewhere.
    """
    from meshkit.security.certificates import ANYBODY

    named = _names(services or DEFAULT_SERVICES)
    config, room = _room(folder)
    if folder is None:
        config.ensure_state_dir()
    _right(lambda: room.ensure([*named, ANYBODY], days=days))
    _tell(room, [room.authority_file, *map(room.file, [*named, ANYBODY])], as_json=as_json, config=config)
    if not as_json:
        say("")
        say("# for every program of the mesh; scripts need no server certificate")
        say("\n".join(f"{name}={value}" for name, value in _environment(config, room).items()))


@app.command()
def issue(
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="Whose it is; or the name of a script.")],
    hosts: Annotated[
        list[str] | None,
        typer.Option(
            "--host", metavar="NAME|IP", help="A further name in it, such as localhost; repeatable."
        ),
    ] = None,
    days: Days = 7.0,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Sign a certificate for a service, in the place of the one that it has.

    It names SERVICE.NAMESPACE, which callers ask for, and
    spiffe://NAMESPACE/SERVICE, by which those that it calls know it. Programs
    that run take it within seconds.
    """
    (name,) = _names([service])
    for host in hosts or ():
        if not _HOST.fullmatch(host):
            raise Failure(f"--host {host!r} is neither a name nor an address", code=ExitCode.USAGE)
    config, room = _room(folder)
    file = _right(lambda: room.issue(name, days=days, hosts=hosts or ()))
    _tell(room, [file], as_json=as_json, config=config)


@app.command()
def renew(
    services: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SERVICE]…", help="These, due or not; by default what is due."),
    ] = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Sign certificates anew of which a third of their lifetime is left or less: same names, same lifetime.

    The authority gets a longer life with the same key when it is due. Run it
    daily: programs that run take what is new within seconds.
    """
    config, room = _room(folder)
    named = _names(services) if services else [each for each in room.services() if room.is_due(each)]
    _right(lambda: room.renew(named))
    if not named and not as_json:
        note(f"nothing in {shown(room.path)} is due")
        return
    _tell(room, [room.file(name) for name in named], as_json=as_json, config=config)


@app.command()
def inspect(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE]…", help="Certificate files; by default those of the settings, or the folder."
        ),
    ] = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Show names, times and problems of certificates; exits with 1 where there is one, or one expires soon."""
    config, room = _room(folder)
    chosen = files or (_configured(config) if folder is None else []) or _in(room)
    if not chosen:
        raise Failure(f"there are no certificates in {shown(room.path)}: make some with `meshkit certs dev`")
    found = _tell(room, chosen, as_json=as_json, config=config)
    if any(each.problems for each in found):
        raise typer.Exit(ExitCode.FAILED)


def _room(folder: Path | None) -> tuple[SharedConfig, CertificateFolder]:
    """The settings, as far as certificates depend on them; the rest may be wrong yet. And the folder.

    Raises:
        ConfigError: They are wrong.
    """
    from meshkit.cli.local_tls import folder_in
    from meshkit.config import ConfigError, SharedConfig
    from meshkit.config.loading import attempt
    from meshkit.security.certificates.folder import CertificateFolder

    off = {"grpc_tls_enabled": False, "grpc_tls_require_client_auth": False}
    config, problems = attempt(SharedConfig, None, off, shared_process=False)
    wrong = [problem for problem in problems if problem.setting in _NEEDED]
    if config is None or wrong:
        raise ConfigError(wrong or problems)
    path = folder.absolute() if folder is not None else folder_in(config.state_dir)
    return config, CertificateFolder(path, config.namespace)


def _configured(config: SharedConfig) -> list[Path]:
    """The certificate files that the settings name."""
    named = (config.grpc_tls_ca_cert, config.grpc_tls_server_cert, config.grpc_tls_client_cert)
    return list(dict.fromkeys(path for path in named if path is not None and "{" not in str(path)))


def _in(room: CertificateFolder) -> list[Path]:
    authority = [room.authority_file] if room.authority_file.exists() else []
    return [*authority, *map(room.file, room.services())]


def _names(services: Iterable[str]) -> list[str]:
    named = list(services)
    for name in named:
        if not SERVICE_NAME.fullmatch(name) or name == "ca":
            raise Failure(f"{name!r} is no name of a service: {SERVICE_NAME.pattern}", code=ExitCode.USAGE)
    return named


def _right(work: Callable[[], T]) -> T:
    """Does it; what is wrong ends the verb."""
    from meshkit.config import Wrong

    try:
        return work()
    except Wrong as wrong:
        raise Failure(str(wrong)) from None
    except OSError as error:
        raise Failure(": ".join(filter(None, (error.filename, error.strerror)))) from None


def _environment(config: SharedConfig, room: CertificateFolder) -> dict[str, str]:
    from meshkit.security.certificates.folder import settings_of

    values = {config.env_name(field): value for field, value in settings_of(room).items()}
    return {name: str(value).lower() if value is True else str(value) for name, value in values.items()}


def _tell(
    room: CertificateFolder, files: Sequence[Path], *, as_json: bool, config: SharedConfig
) -> list[Inspected]:
    from meshkit.config import Wrong
    from meshkit.config.certificates import parse_certificates, read_file
    from meshkit.security.certificates.inspection import inspect

    now = time.time()
    trusted = room.authority_file if room.authority_file.exists() else config.grpc_tls_ca_cert
    try:
        authorities = parse_certificates(read_file(trusted), trusted) if trusted else []
    except Wrong:
        authorities = []  # that file is among those that are shown, with what is wrong with it
    found = [inspect(file, authorities, config.namespace, now=now) for file in files]
    if as_json:
        show_json([_as_json(each, now) for each in found])
        return found
    show(table_of(("file", "names", "until", "days left"), [_row(each, now) for each in found]))
    for each in found:
        for problem in each.problems:
            note(f"{shown(each.file)}: {problem}")
    return found


def _row(each: Inspected, now: float) -> tuple[str, str, str, str]:
    certificate, left = each.certificate, each.days_left(now)
    if certificate is None or left is None:
        return shown(each.file), "", "", ""
    names = f"authority {certificate.subject}" if each.authority else certificate.names
    return shown(each.file), names, moment(certificate.not_after), f"{left:.1f}"


def _as_json(each: Inspected, now: float) -> dict[str, Any]:
    certificate, left = each.certificate, each.days_left(now)
    told: dict[str, Any] = {"file": str(each.file), "authority": each.authority, "problems": each.problems}
    if certificate is None or left is None:
        return told
    return told | {
        "subject": certificate.subject,
        "issuer": certificate.issuer,
        "dns": certificate.dns,
        "uris": certificate.uris,
        "addresses": certificate.addresses,
        "serial": certificate.serial,
        "not_before": moment(certificate.not_before),
        "not_after": moment(certificate.not_after),
        "days_left": round(left, 2),
    }
