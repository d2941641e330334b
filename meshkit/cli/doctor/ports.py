"""The doctor's look at ports: whether each service could bind its own, and who has it else."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

from meshkit.cli.doctor.findings import Case, Finding, Named, fault, good, note
from meshkit.cli.doctor.listeners import listener_on


async def look_at_ports(case: Case) -> list[Finding]:
    """Tries to bind each port, and lets it go again at once."""
    if not case.services:
        return [note("not looked at", "name services, such as `meshkit doctor greeter:Greeter`")]
    return [finding for service in case.services for finding in _of(service, case)]


def _of(service: Named, case: Case) -> Iterator[Finding]:
    config = service.config
    default = service.kind.definition.port if service.kind else 0
    port = default if config.grpc_port is None else config.grpc_port
    yield _look(service.name or service.target, "GRPC_PORT", config.grpc_host, port, case)
    if config.health_port is not None:
        yield _look(
            service.name or service.target, "CU_HEALTH_PORT", config.health_host, config.health_port, case
        )


def _look(service: str, setting: str, host: str, port: int, case: Case) -> Finding:
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if port == 0:
        return good(f"{service}: {setting} is any free port")
    trouble = _bind(host, port)
    if trouble is None:
        return good(f"{service}: {where} is free")
    if trouble.errno != errno.EADDRINUSE:
        mend = f"let this user have it, or set {setting} or its host"
        return fault(f"{service}: {where} cannot be bound ({trouble.strerror or trouble})", mend)
    serving = [each for each in case.instances if each.address.endswith(f":{port}")]
    listener = listener_on(port)
    if own := next((each for each in serving if each.service == service), None):
        return good(f"{service}: {where} is served by {own.instance_id}{f', {listener}' if listener else ''}")
    others = f"{serving[0].instance_id}, " if serving else ""
    by = f" by {others}{listener}" if others or listener else ""
    return fault(f"{service}: {where} is taken{by}", f"stop what listens there, or set {setting}")


def _bind(host: str, port: int) -> OSError | None:
    """Why a port cannot be bound; None where it can be."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
    except OSError as error:
        return error
    return None
