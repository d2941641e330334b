"""`meshkit health`: whether instances serve, asked of themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from meshkit.cli.address import TIMEOUT_S, is_address, line, remark
from meshkit.cli.finding import (
    by_age,
    configured_registry,
    require_known,
    services_of,
    settings,
    snapshots_of,
)
from meshkit.cli.output import ExitCode, Failure, say, show_json
from meshkit.cli.tables import show, table_of
from meshkit.instance import SERVICE_NAME

if TYPE_CHECKING:
    from rich.text import Text

    from meshkit.config import SharedConfig
    from meshkit.instance import Instance
    from meshkit.transport.probing import Probe
    from meshkit.transport.tls import Secured

AT_ONCE = 32
"""Instances that are asked at the same time."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of one check."""

    service: str
    instance: str
    address: str
    probe: Probe


def health(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="SERVICE|HOST:PORT", help="One service, or one address; by default everything."
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds that each instance has to answer.")
    ] = TIMEOUT_S,
    tls: Annotated[
        str,
        typer.Option(
            "--tls", metavar="SERVICE", help="Ask an address over TLS, as an instance of this service."
        ),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Asks instances whether they serve (grpc.health.v1); exits with 0 only if there are some and all of them do.

    An address is asked without the registry and without settings, as a
    container's HEALTHCHECK wants it: meshkit health localhost:50051

    Under TLS that is the health port (CU_HEALTH_PORT); or the address of the
    service itself, with --tls, which reads the settings GRPC_TLS_*.
    """
    checked = asyncio.run(_check(target, timeout, tls))
    _show(checked, as_json=as_json, table=target is None or ":" not in target)
    if not all(each.probe.serves for each in checked):
        raise typer.Exit(ExitCode.FAILED)


async def _check(target: str | None, timeout: float, tls: str) -> list[Checked]:
    """Asks everybody who is meant.

    Raises:
        Failure: That is nobody.
    """
    from meshkit.transport.probing import probe

    if target is not None and ":" in target:
        if not is_address(target):
            raise Failure(f"{target!r} is not host:port", code=ExitCode.USAGE)
        secured = _securing(await settings())(tls) if tls else None
        return [Checked(tls, "", target, await probe(target, timeout=timeout, secured=secured))]
    if tls:
        raise Failure("--tls is for an address; services are asked as the settings say", code=ExitCode.USAGE)
    config = await settings()
    securing = _securing(config) if config.grpc_tls_enabled else None
    turn = asyncio.Semaphore(AT_ONCE)

    async def check(instance: Instance) -> Checked:
        async with turn:
            secured = securing(instance.service) if securing else None
            found = await probe(instance.address, timeout=timeout, secured=secured)
        return Checked(instance.service, instance.instance_id, instance.address, found)

    return await asyncio.gather(*(check(instance) for instance in await _instances(target, config)))


def _securing(config: SharedConfig) -> Callable[[str], Secured]:
    """How a channel to each service is secured.

    Raises:
        ConfigError: The certificates cannot be used.
        Failure: TLS is off.
    """
    from meshkit.config.certificates import dns_name
    from meshkit.security.certificates import client_certificates
    from meshkit.transport.tls import Secured

    files = client_certificates(config, config.service_name)
    if files is None:
        raise Failure("--tls: GRPC_TLS_ENABLED is off", code=ExitCode.CONFIG)
    return lambda service: Secured(files.material, dns_name(service, config.namespace))


async def _instances(service: str | None, config: SharedConfig) -> list[Instance]:
    if service is not None and not SERVICE_NAME.fullmatch(service):
        raise Failure(f"{service!r} is neither a service nor host:port", code=ExitCode.USAGE)
    async with configured_registry(config) as registry:
        known = await services_of(registry)
        if service is not None:
            require_known(service, known, registry)
        snapshots = await snapshots_of(registry, known if service is None else [service])
        found = [instance for name in sorted(snapshots) for instance in by_age(snapshots[name])]
        if not found:
            whom = f"instance of {service}" if service is not None else "instance of any service"
            raise Failure(f"there is no {whom} in {registry}")
        return found


def _show(checked: Sequence[Checked], *, as_json: bool, table: bool) -> None:
    if as_json:
        show_json([_as_json(each) for each in checked])
    elif table:
        rows = [
            (each.service, each.instance, each.address, _status(each.probe), remark(each.probe))
            for each in checked
        ]
        show(table_of(("service", "instance", "address", "health", ""), rows))
    else:
        for each in checked:
            say(line(each.address, each.probe))


def _status(probe: Probe) -> Text:
    from rich.text import Text

    return Text(probe.status, style="green" if probe.serves else "red")


def _as_json(checked: Checked) -> dict[str, object]:
    return {
        "service": checked.service,
        "instance": checked.instance,
        "address": checked.address,
        "health": checked.probe.status,
        "state": checked.probe.state,
        "lacking": list(checked.probe.lacking),
        "problem": checked.probe.problem,
        "seconds": round(checked.probe.seconds, 4),
    }
