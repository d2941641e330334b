"""`meshkit explain SERVICE`: what a call to a service would meet now, layer by layer."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshkit.cli.finding import require_known, services_of, settings
from meshkit.cli.nearest import did_you_mean
from meshkit.cli.output import ExitCode, Failure, note, say, show_json
from meshkit.cli.tables import age, show, table_of
from meshkit.errors import MeshError
from meshkit.instance import SERVICE_NAME

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshkit._gen.meshkit.v1 import mesh_pb2 as pb
    from meshkit.config import SharedConfig
    from meshkit.mesh import Mesh

COLUMNS = (
    "instance",
    "address",
    "zone",
    "state",
    "connected",
    "gate",
    "weight",
    "under way",
    "picks",
    "failed",
)

CONNECT_S = 2.0
"""Seconds that connections have to come about before they are looked at."""


METHODS = ("method", "permission", "tenant", "idempotent", "timeout", "peers", "own policy", "at once")


def explain(
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="The service that would be called.")],
    caller: Annotated[
        str,
        typer.Option(
            "--from", metavar="SERVICE", help="As an instance of this service sees it; by default as we do."
        ),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Shows what a call to a service would meet now, layer by layer, and what its methods ask of callers.

    Without --from it is a call from here, with the settings of the environment.
    With it an instance of another service is asked how it sees the service: its
    pool, gates, calls under way and latencies; that needs `mesh:inspect`. Exits
    with 1 where such a call would find nobody.
    """
    for name in filter(None, (service, caller)):
        if not SERVICE_NAME.fullmatch(name):
            raise Failure(f"{name!r} is no name of a service: {SERVICE_NAME.pattern}", code=ExitCode.USAGE)
    found = asyncio.run(_asked(service, caller) if caller else _here(service))
    if as_json:
        show_json(_document(found))
    else:
        _tell(found)
    if not any(endpoint.ready and endpoint.state == "serving" for endpoint in found["pool"].endpoints):
        raise typer.Exit(ExitCode.FAILED)


async def _here(service: str) -> dict[str, Any]:
    """The service as a call from here would meet it."""
    from meshkit.inspection import described
    from meshkit.mesh import Mesh

    config = await settings()
    async with Mesh(config) as mesh:
        require_known(service, await services_of(mesh.registry), mesh.registry)
        pool = mesh.pool(service)
        with suppress(TimeoutError):
            async with asyncio.timeout(CONNECT_S):
                while not pool.endpoints or not all(each.link.ready for each in pool.endpoints.values()):
                    await pool.changed()
        methods, untold = await _methods(mesh, service)
        return {
            "caller": "a call from here",
            "layers": _layers(config, mesh),
            "pool": described(pool),
            "methods": methods,
            "untold": untold,
        }


async def _methods(mesh: Mesh, service: str) -> tuple[Sequence[pb.ServedMethod], str]:
    """What an instance of the service says of its methods; else why it says nothing."""
    from meshkit._gen.meshkit.v1 import mesh_pb2 as pb
    from meshkit._gen.meshkit.v1.mesh_client import MeshClient

    if not any(each.link.ready for each in mesh.pool(service).endpoints.values()):
        return (), "nobody is there to tell"
    client = mesh.client(MeshClient, service=service, permissions=["mesh:inspect"])
    try:
        return (await client.describe(pb.DescribeRequest(), timeout=CONNECT_S)).methods, ""
    except MeshError as error:
        return (), str(error)


async def _asked(service: str, caller: str) -> dict[str, Any]:
    """The service as an instance of another one sees it.

    Raises:
        Failure: It cannot be asked, or has not called the service.
    """
    from meshkit._gen.meshkit.v1 import mesh_pb2 as pb
    from meshkit._gen.meshkit.v1.mesh_client import MeshClient
    from meshkit.mesh import Mesh

    async with Mesh(await settings()) as mesh:
        require_known(caller, await services_of(mesh.registry), mesh.registry)
        client = mesh.client(MeshClient, service=caller, permissions=["mesh:inspect"])
        trailers: dict[str, str] = {}
        try:
            pools = (await client.list_pools(pb.ListPoolsRequest(), trailers=trailers)).pools
        except MeshError as error:
            raise Failure(f"{caller} does not tell: {error}") from None
        instance = trailers.get("x-cu-instance", caller)
        for pool in pools:
            if pool.service == service:
                return {"caller": instance, "layers": [], "pool": pool, "methods": (), "untold": ""}
        known = [pool.service for pool in pools]
        raise Failure(
            f"{instance} has not called {service}{did_you_mean(service, known)}; "
            f"it has called {', '.join(known) or 'nobody'}"
        )


def _layers(config: SharedConfig, mesh: Mesh) -> list[tuple[str, str]]:
    """The layers of an outgoing call, in order."""
    return [
        (
            "deadline",
            f"{config.default_timeout_s:g} s for a unary call, where neither caller nor contract says otherwise",
        ),
        (
            "retry",
            f"another instance first; the budget allows {mesh.budget.balance():.0f} more attempts now",
        ),
        ("token", _token(config)),
        ("pick", "see the endpoints below"),
        ("sign", "with the token's key, for the instance that was picked"),
        ("send", f"over {_kind(config)} made before, messages of {config.grpc_max_message_mb} MiB at most"),
    ]


def _token(config: SharedConfig) -> str:
    """By whose word the call is made."""
    own = f"project {config.project_id} with its key {config.ensure_project_secrets()[0].kid}"
    if not config.shield_grpc_url:
        return f"made as {own}, kept for its scope"
    return f"from Shield at {config.shield_grpc_url}, to which this is {own}; kept for its scope"


def _kind(config: SharedConfig) -> str:
    if not config.grpc_tls_enabled:
        return "a connection in plain text"
    return "an mTLS connection" if config.grpc_tls_client_cert else "a TLS connection"


def _tell(found: dict[str, Any]) -> None:
    pool: pb.Pool = found["pool"]
    say(f"{pool.service}, as {found['caller']} sees it")
    if found["layers"]:
        say("")
        for number, (name, text) in enumerate(found["layers"], start=1):
            say(f"  {number} {name:<9} {text}")
    say("")
    for line in _facts(pool):
        say(f"  {line}")
    say("")
    if pool.endpoints:
        rows = [_cells(endpoint) for endpoint in pool.endpoints]
        show(table_of(COLUMNS, rows, expendable=("failed", "picks", "weight", "zone", "under way")))
    else:
        note(f"{pool.registry} knows no instance of {pool.service}: a call waits for one until its deadline")
    if found["methods"]:
        say("")
        show(
            table_of(
                METHODS, [_demands(method) for method in found["methods"]], expendable=("timeout", "peers")
            )
        )
    elif found["untold"]:
        note(f"{pool.service} does not tell what its methods ask of callers: {found['untold']}")
    if pool.methods:
        say("")
        show(table_of(("method", "50 %", "95 %", "99 %"), [_latencies(method) for method in pool.methods]))


def _facts(pool: pb.Pool) -> list[str]:
    from time import time

    ready = sum(1 for each in pool.endpoints if each.ready and each.state == "serving")
    lines = [f"registry   {pool.registry}"]
    if pool.HasField("stale_since"):
        gone = age(time() - pool.stale_since.ToSeconds())
        lines.append(f"           cannot be read since {gone}: this is its last known state")
    lines.append(f"policy     {pool.policy} over {ready} of {len(pool.endpoints)} endpoints")
    if pool.panic:
        lines.append("           most gates are shut, so gates are ignored")
    if pool.zone:
        spilt = f", {pool.spill:.0%} of calls go elsewhere" if pool.spill else ""
        lines.append(f"zone       {pool.zone} first{spilt}")
    return lines


def _cells(endpoint: pb.Endpoint) -> list[str]:
    gate = endpoint.gate
    if endpoint.gate_reason:
        gate = f"{gate}: {endpoint.gate_reason}"
    if endpoint.gate_opens_in_s:
        gate = f"{gate}; probed in {endpoint.gate_opens_in_s:.1f} s"
    return [
        endpoint.instance_id,
        endpoint.address,
        endpoint.zone,
        "resting" if endpoint.resting else endpoint.state,
        "yes" if endpoint.ready else f"no: {endpoint.trouble}" if endpoint.trouble else "no",
        gate,
        f"{endpoint.weight:g}",
        str(endpoint.in_flight),
        str(endpoint.picks),
        str(endpoint.failures),
    ]


def _demands(method: pb.ServedMethod) -> Sequence[str]:
    """What a method asks of its callers."""
    return (
        method.path,
        method.permission or "none: public",
        method.tenant,
        "yes" if method.idempotent else "no",
        f"{method.timeout_s:g} s" if method.timeout_s else "none",
        ", ".join(method.allowed_peers) or "any",
        "yes" if method.own_policy else "no",
        _limit(method),
    )


def _limit(method: pb.ServedMethod) -> str:
    """How many calls of a method are served at once, and how many are now."""
    if not method.HasField("limit"):
        return "any"
    limit = method.limit
    waiting = f", {limit.waiting} waiting" if limit.waiting else ""
    return f"{limit.running} of {limit.limit}{waiting}"


def _latencies(method: pb.MethodLatency) -> Sequence[str]:
    return (method.path, *(f"{1000 * each:.1f} ms" for each in (method.p50_s, method.p95_s, method.p99_s)))


def _document(found: dict[str, Any]) -> dict[str, Any]:
    from google.protobuf.json_format import MessageToDict

    pool = MessageToDict(
        found["pool"], preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    layers = [{"layer": name, "meets": text} for name, text in found["layers"]]
    methods = [
        MessageToDict(each, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        for each in found["methods"]
    ]
    return {"caller": found["caller"], "layers": layers, "pool": pool, "methods": methods}
