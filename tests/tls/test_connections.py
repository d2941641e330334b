"""Who gets a connection and who does not, with real TLS; and what an operator is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog

from meshkit import Call, Exchange, Mesh, Peer, PermissionDenied, SharedConfig, Unavailable, rpc
from meshkit._gen.meshkit.v1 import mesh_pb2 as pb
from meshkit._gen.meshkit.v1.mesh_client import MeshClient
from meshkit.config import ConfigError
from meshkit.discovery.memory import MemoryRegistry
from meshkit.instance import Instance
from meshkit.pipeline import Method
from meshkit.replica import Replica
from meshkit.resilience.admission import Admission
from meshkit.security.revocations import Revocations
from meshkit.serving import handlers
from meshkit.telemetry.observing import Observer
from meshkit.testing import LocalMesh
from tests.certificates import Signed, Signer
from tests.serving.probe import CONTRACT, Probe, ProbeClient, Text
from tests.tls.parts import Files, calling, noting, serving, settings

MTLS = {"grpc_tls_require_client_auth": True}
PLAIN = {"grpc_tls_enabled": False, "grpc_tls_require_client_auth": False}


@pytest.fixture
def registry() -> MemoryRegistry:
    return MemoryRegistry()


def server(folder: Path, authority: Signer, own: Signed | None = None, **others: Any) -> SharedConfig:
    files = Files(folder / "server").write(authority, own or authority.service("probe"))
    return SharedConfig(**settings(files, **others))


def client(folder: Path, trusted: Signer, own: Signed | None, **others: Any) -> SharedConfig:
    return SharedConfig(**settings(Files(folder / "client").write(trusted, own), **others))


async def read(mesh: Mesh, timeout: float = 20) -> Text:
    reply: Text = await mesh.client(ProbeClient).read(Text(value="x"), timeout=timeout)
    return reply


async def refused(mesh: Mesh, eventually: Any) -> str:
    """What a call says for which there is no connection."""
    endpoints = mesh.pool("probe").endpoints
    await eventually(lambda: any(endpoint.link.trouble for endpoint in endpoints.values()))
    with pytest.raises(Unavailable) as caught:
        await read(mesh, 0.05)
    return str(caught.value)


async def test_mutual_tls_tells_each_side_who_the_other_is(
    tmp_path: Path, registry: MemoryRegistry, authority: Signer
) -> None:
    ours = client(tmp_path, authority, authority.service("router"), service_name="router", **MTLS)
    async with (
        serving(registry, server(tmp_path, authority, **MTLS)) as replica,
        calling(registry, ours) as mesh,
    ):
        peers = noting(replica.service)
        assert (await read(mesh)).value == "x"
        (peer,) = peers
        assert peer.service == "router"
        assert peer.spiffe_id == "spiffe://contextunity/router"
        assert peer.address.startswith("ipv4:127.0.0.1:")
        assert str(peer) == f"spiffe://contextunity/router at {peer.address}"


async def test_without_client_certificates_a_peer_has_an_address_alone(
    tmp_path: Path, registry: MemoryRegistry, authority: Signer
) -> None:
    ours = client(tmp_path, authority, authority.service("router"), service_name="router")
    async with serving(registry, server(tmp_path, authority)) as replica, calling(registry, ours) as mesh:
        peers = noting(replica.service)
        await read(mesh)
        (peer,) = peers
        assert (peer.spiffe_id, peer.service) == ("", "")
        assert str(peer) == peer.address


async def test_a_caller_without_a_certificate_is_served_where_none_is_asked_for(
    tmp_path: Path, registry: MemoryRegistry, authority: Signer
) -> None:
    ours = client(tmp_path, authority, None)
    async with serving(registry, server(tmp_path, authority)), calling(registry, ours) as mesh:
        assert (await read(mesh)).value == "x"


async def test_a_plain_call_has_a_peer_too() -> None:
    local = LocalMesh(Probe)
    async with local as mesh:
        peers = noting(local.service(local.instances[0]))
        await read(mesh)
        (peer,) = peers
        assert peer == Peer(peer.address)
        assert peer.address.startswith("ipv4:127.0.0.1:")


async def test_a_peer_that_nobody_asked_for_is_not_known_once_the_call_is_over() -> None:
    local = LocalMesh(Probe)
    async with local as mesh:
        await read(mesh)
        (call,) = local.service(local.instances[0]).calls  # type: ignore[attr-defined]
        assert (str(call.peer), repr(call.peer)) == ("unknown", "Peer(unknown)")
        for ask in (lambda: call.peer.address, lambda: call.peer.spiffe_id, lambda: call.peer.service):
            with pytest.raises(RuntimeError, match="while it is served"):
                ask()


async def test_a_peer_can_be_asked_for_until_a_call_that_was_given_up_has_ended() -> None:
    local = LocalMesh(Probe)
    async with local as mesh:
        service, told = cast(Probe, local.service(local.instances[0])), []

        async def lingering(request: Text, call: Call) -> Text:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.05)  # the connection has heard of it by now
                told.append(call.peer.address)
            raise AssertionError

        service.behave["Read"] = lingering
        calling = asyncio.ensure_future(mesh.client(ProbeClient).read(Text(), timeout=30))
        await service.until(lambda: service.begun["Read"] == 1)
        calling.cancel()
        await service.until(lambda: service.ended["Read"] == 1)
        assert told[0].startswith("ipv4:127.0.0.1:")


@pytest.mark.parametrize(
    ("shown", "told"),
    [
        (lambda ours, other: ours.service("router"), "it shows is not for probe.contextunity"),
        (lambda ours, other: ours.service("probe", "other"), "it shows is not for probe.contextunity"),
        (lambda ours, other: other.service("probe"), "no authority in GRPC_TLS_CA_CERT has signed"),
        (lambda ours, other: ours.service("probe", until=-0.5), "the certificate that it shows has expired"),
    ],
    ids=["of another service", "of another mesh", "of another authority", "expired"],
)
async def test_a_server_that_shows_the_wrong_certificate_is_not_called(
    tmp_path: Path,
    registry: MemoryRegistry,
    authority: Signer,
    monkeypatch: pytest.MonkeyPatch,
    shown: Callable[[Signer, Signer], Signed],
    told: str,
    eventually: Any,
) -> None:
    other = Signer()
    monkeypatch.setattr(
        "meshkit.parts.check_serving", lambda config, name: []
    )  # it would not start by itself
    monkeypatch.setattr("meshkit.config.tls.faults", lambda *facts, **others: iter(()))
    theirs = server(tmp_path, authority, shown(authority, other))
    ours = client(tmp_path, authority, authority.service("router"))
    async with serving(registry, theirs) as replica, calling(registry, ours) as mesh:
        assert replica.instance is not None
        assert f"{replica.instance.address}: " in (text := await refused(mesh, eventually))
        assert told in text


@pytest.mark.parametrize(
    ("shown", "told"),
    [
        (lambda ours, other: None, "may ask for a certificate, and GRPC_TLS_CLIENT_CERT is not set"),
        (
            lambda ours, other: other.service("router"),
            "may not trust the certificate in GRPC_TLS_CLIENT_CERT",
        ),
        (
            lambda ours, other: ours.service("router", until=-0.5),
            "may not trust the certificate in GRPC_TLS_CLIENT_CERT",
        ),
    ],
    ids=["none", "of another authority", "expired"],
)
async def test_a_caller_that_shows_the_wrong_certificate_gets_no_connection(
    tmp_path: Path,
    registry: MemoryRegistry,
    authority: Signer,
    monkeypatch: pytest.MonkeyPatch,
    shown: Callable[[Signer, Signer], Signed | None],
    told: str,
    eventually: Any,
) -> None:
    theirs = server(tmp_path, authority, **MTLS)
    monkeypatch.setattr("meshkit.config.tls.faults", lambda *facts, **others: iter(()))
    ours = client(tmp_path, authority, shown(authority, Signer()))
    async with serving(registry, theirs) as replica, calling(registry, ours) as mesh:
        assert told in await refused(mesh, eventually)
        assert not replica.service.begun  # type: ignore[attr-defined]


@pytest.mark.parametrize("lasting", [False, True], ids=["as it ended", "for good"])
async def test_the_log_tells_of_an_instance_that_hangs_up_only_if_it_does_so_again(
    tmp_path: Path,
    registry: MemoryRegistry,
    authority: Signer,
    lasting: bool,
    monkeypatch: pytest.MonkeyPatch,
    eventually: Any,
) -> None:
    if lasting:  # it is all one how soon it is asked again
        monkeypatch.setattr("meshkit.transport.link.ASK_AGAIN_S", 0.2)

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        if not lasting:
            listening.close()

    listening = await asyncio.start_server(hang_up, "127.0.0.1")
    port = listening.sockets[0].getsockname()[1]
    await registry.register(Instance(service="probe", instance_id="probe-1", address=f"127.0.0.1:{port}"))
    ours = client(tmp_path, authority, authority.service("router"))
    with structlog.testing.capture_logs() as logs:
        async with listening, calling(registry, ours) as mesh:
            endpoints = mesh.pool("probe").endpoints
            await eventually(
                lambda: bool(logs) or any("refused" in each.link.trouble for each in endpoints.values())
            )
    told = [log["why"] for log in logs if log["event"] == "no connection to an instance"]
    assert [("may not trust the certificate in GRPC_TLS_CLIENT_CERT" in why) for why in told] == [
        True
    ] * lasting


async def test_a_plain_caller_of_a_server_with_tls_is_told(
    tmp_path: Path, registry: MemoryRegistry, authority: Signer, eventually: Any
) -> None:
    ours = client(tmp_path, authority, None, **PLAIN)
    async with serving(registry, server(tmp_path, authority)), calling(registry, ours) as mesh:
        assert "it may speak TLS, and GRPC_TLS_ENABLED is off here" in await refused(mesh, eventually)


async def test_a_caller_with_tls_of_a_plain_server_is_told(
    tmp_path: Path, registry: MemoryRegistry, authority: Signer, eventually: Any
) -> None:
    ours = client(tmp_path, authority, None)
    async with serving(registry, server(tmp_path, authority, **PLAIN)), calling(registry, ours) as mesh:
        assert "it does not speak TLS, and GRPC_TLS_ENABLED is on here" in await refused(mesh, eventually)


class ForRouter(Probe, contract=CONTRACT, allow_peers={"router"}):
    """Lets the router in, and at one method the brain instead."""

    @rpc(permission="probe:use", allow_peers=("brain",))
    async def write(self, request: Text, call: Call) -> Text:
        return await self._one("Write", request, call)


@pytest.mark.parametrize(("name", "reads", "writes"), [("router", True, False), ("brain", False, True)])
async def test_peers_are_let_in_by_name(
    tmp_path: Path, registry: MemoryRegistry, authority: Signer, name: str, reads: bool, writes: bool
) -> None:
    ours = client(tmp_path, authority, authority.service(name), service_name=name, **MTLS)
    theirs = server(tmp_path, authority, **MTLS)
    async with serving(registry, theirs, ForRouter) as replica, calling(registry, ours) as mesh:
        stub = mesh.client(ProbeClient)
        for call, allowed in ((stub.read, reads), (stub.write, writes)):
            if allowed:
                assert (await call(Text(value="x"), timeout=20)).value == "x"
                continue
            with pytest.raises(PermissionDenied) as caught:
                await call(Text(value="x"), timeout=20)
            assert caught.value.reason == "PEER_MISMATCH"
            assert f"is not open to spiffe://contextunity/{name}" in caught.value.message
        assert sum(replica.service.begun.values()) == 1


@pytest.mark.parametrize("method", ["Read", "Collect", "Talk"])
async def test_a_peer_is_refused_before_its_messages_are_read(method: str) -> None:
    async def unread(*_: object) -> Any:
        raise AssertionError("the peer was refused already")

    class NoGuard:
        verifier = SimpleNamespace(revocations=Revocations())

        def layer(self, demand: object) -> Any:
            return lambda next: unread

    onions = handlers(ForRouter(), NoGuard(), Admission(), Observer(), namespace="contextunity")  # type: ignore[arg-type]
    (handler,) = [onion for one, onion in onions.items() if one.name == method]
    call = Call(service="probe", peer=Peer("ipv4:1", "spiffe://contextunity/zero"))
    with pytest.raises(PermissionDenied) as caught:
        await handler(Exchange(Method(f"/probe.v1.ProbeService/{method}"), call, receive=unread, send=unread))
    assert caught.value.reason == "PEER_MISMATCH"


async def test_the_name_of_a_peer_in_another_mesh_does_not_count(
    tmp_path: Path, registry: MemoryRegistry, authority: Signer
) -> None:
    """The two meshes share an authority, a secret and a server's name; the client is of the other one."""
    theirs = server(
        tmp_path, authority, authority.service("probe", dns=("probe.contextunity", "probe.other")), **MTLS
    )
    ours = client(
        tmp_path,
        authority,
        authority.service("router", "other"),
        service_name="router",
        namespace="other",
        **MTLS,
    )
    async with serving(registry, theirs, ForRouter), calling(registry, ours) as mesh:
        with pytest.raises(PermissionDenied) as caught:
            await read(mesh)
        assert "spiffe://other/router" in caught.value.message


def test_a_service_that_cannot_tell_its_peers_does_not_start(
    tmp_path: Path, registry: MemoryRegistry, authority: Signer
) -> None:
    for config in (server(tmp_path, authority), server(tmp_path, authority, **PLAIN)):
        with pytest.raises(
            ConfigError, match="GRPC_TLS_REQUIRE_CLIENT_AUTH: probe lets certain peers in only"
        ):
            Replica(ForRouter, config, registry)


async def test_a_local_mesh_may_be_one_with_mutual_tls() -> None:
    class ForClient(Probe, contract=CONTRACT, allow_peers={"client"}):
        """Lets tests in."""

    async with LocalMesh(ForClient, tls=True) as mesh:
        assert (await read(mesh)).value == "x"


async def test_an_instance_tells_which_peers_a_method_is_open_to_and_that_it_has_a_policy() -> None:
    class Choosy(ForRouter):
        async def authorize(self, call: Call) -> None:
            """Lets all in."""

    async with LocalMesh(Choosy, tls=True) as mesh:
        told = await mesh.client(MeshClient, service="probe").describe(pb.DescribeRequest(), timeout=20)
    methods = {method.path.rpartition("/")[2]: method for method in told.methods}
    assert (methods["Read"].allowed_peers, methods["Write"].allowed_peers) == (["router"], ["brain"])
    assert methods["Read"].own_policy
