"""Certificates that are replaced under load: new connections show the new ones, and no call fails."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from structlog.testing import capture_logs

from meshkit import Call, Mesh, SharedConfig, Unavailable
from meshkit.discovery.memory import MemoryRegistry
from meshkit.replica import Replica
from meshkit.transport.rotation import RotatingLink
from tests.certificates import Signed, Signer
from tests.serving.probe import ProbeClient, Text
from tests.tls.parts import Files, calling, noting, serving, settings


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked at all the time, and links connect anew at once."""
    monkeypatch.setattr("meshkit.security.certificates.watch.LOOK_S", 0.01)
    monkeypatch.setattr("meshkit.transport.rotation.random.uniform", lambda low, high: 0.0)


class Stage:
    """A service and a caller, with mutual TLS."""

    def __init__(self, folder: Path) -> None:
        self.authority = Signer()
        self.server = Files(folder / "server").write(self.authority, self.authority.service("probe"))
        self.client = Files(folder / "client").write(self.authority, self.authority.service("router"))
        self.registry = MemoryRegistry()

    async def enter(
        self, stack: AsyncExitStack, *, calling_with: Any = None, **serving_with: Any
    ) -> tuple[Replica, Mesh]:
        both = {"grpc_tls_require_client_auth": True}
        theirs = SharedConfig(**settings(self.server, **both, **serving_with))
        ours = SharedConfig(**settings(self.client, service_name="router", **both, **(calling_with or {})))
        replica = await stack.enter_async_context(serving(self.registry, theirs))
        return replica, await stack.enter_async_context(calling(self.registry, ours))


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def serial_of(own: Signed) -> int:
    return x509.load_pem_x509_certificate(own.certificate).serial_number


async def shown_by(replica: Replica) -> int:
    """Serial number of the certificate that a server shows to a new connection."""
    assert replica.instance is not None
    host, _, port = replica.instance.address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(shown).serial_number


def link_of(mesh: Mesh) -> RotatingLink:
    (endpoint,) = mesh.pool("probe").endpoints.values()
    assert isinstance(endpoint.link, RotatingLink)
    return endpoint.link


async def until_shown(replica: Replica, own: Signed) -> None:
    async with asyncio.timeout(30):
        while await shown_by(replica) != serial_of(own):
            await asyncio.sleep(0.01)


async def test_a_server_shows_its_new_certificate_to_new_connections(stage: Stage) -> None:
    async with AsyncExitStack() as stack:
        replica, mesh = await stage.enter(stack)
        before = await shown_by(replica)
        stage.server.replace(second := stage.authority.service("probe"))
        await until_shown(replica, second)
        assert before != serial_of(second)
        assert (await mesh.client(ProbeClient).read(Text(value="x"), timeout=20)).value == "x"


async def test_a_caller_shows_its_new_certificate_on_a_new_connection(stage: Stage, eventually: Any) -> None:
    """Seen by who the server says its peer is."""
    async with AsyncExitStack() as stack:
        replica, mesh = await stage.enter(stack)
        stub, peers = mesh.client(ProbeClient), noting(replica.service)
        await stub.read(Text(value="x"), timeout=20)
        link = link_of(mesh)
        before = link._current
        stage.client.replace(stage.authority.service("router"))
        await eventually(lambda: link._current is not before)
        await stub.read(Text(value="x"), timeout=20)
        first, second = peers
        assert first.address != second.address
        assert first.spiffe_id == second.spiffe_id == "spiffe://contextunity/router"
        await eventually(lambda: not link._leaving)


async def test_calls_under_way_end_on_the_connection_they_began_on(stage: Stage, eventually: Any) -> None:
    async with AsyncExitStack() as stack:
        replica, mesh = await stage.enter(stack)
        go = asyncio.Event()

        async def slowly(request: Text, call: Call) -> AsyncIterator[Text]:
            yield Text(value="first")
            await go.wait()
            yield Text(value="last")

        replica.service.behave["Follow"] = slowly  # type: ignore[attr-defined]
        async with mesh.client(ProbeClient).follow(Text(), timeout=60) as replies:
            assert (await anext(aiter(replies))).value == "first"
            link = link_of(mesh)
            before = link._current
            stage.client.replace(stage.authority.service("router"))
            await eventually(lambda: link._current is not before)
            go.set()
            assert [reply.value async for reply in replies] == ["last"]


async def test_a_certificate_that_the_other_side_does_not_trust_leaves_the_connection_that_stands(
    stage: Stage, eventually: Any
) -> None:
    """The caller's own authority signed it, so it looks right here; the server knows that one no more."""
    async with AsyncExitStack() as stack:
        _, mesh = await stage.enter(stack)
        stub = mesh.client(ProbeClient)
        await stub.read(Text(value="x"), timeout=20)
        link, stranger = link_of(mesh), Signer()
        with capture_logs() as logs:
            stage.client.ca.write_bytes(stage.authority.pem + stranger.pem)
            await eventually(lambda: link._next is not None or len(link._leaving) > 0 or logs)
            stage.client.replace(stranger.service("router"))
            await eventually(lambda: any(log["event"] == "no connection to an instance" for log in logs))
        for _ in range(5):
            assert (await stub.read(Text(value="x"), timeout=20)).value == "x"
        stage.client.replace(stage.authority.service("router"))
        await eventually(lambda: link._next is None and link.ready)
        assert (await stub.read(Text(value="x"), timeout=20)).value == "x"


async def test_the_authority_may_be_replaced_step_by_step(stage: Stage, eventually: Any) -> None:
    old, new = stage.authority, Signer()
    async with AsyncExitStack() as stack:
        replica, mesh = await stage.enter(stack)
        stub = mesh.client(ProbeClient)
        for own, name in ((stage.server, "probe"), (stage.client, "router")):
            own.ca.write_bytes(old.pem + new.pem)
            certificates = replica.certificates if name == "probe" else mesh.certificates
            assert certificates is not None
            if name == "router":
                mesh.pool("probe")
                await stub.read(Text(value="x"), timeout=20)
            await eventually(
                lambda watch=certificates, own=own: watch.material.authorities == own.ca.read_bytes()
            )
        stage.server.replace(second := new.service("probe"))
        stage.client.replace(new.service("router"))
        await until_shown(replica, second)
        await eventually(lambda: link_of(mesh)._next is None)
        for own in (stage.server, stage.client):
            own.ca.write_bytes(new.pem)
        assert (await stub.read(Text(value="x"), timeout=20)).value == "x"


async def test_swaps_under_load_fail_no_call(stage: Stage, eventually: Any) -> None:
    swaps, failures, done = 5, [], 0
    async with AsyncExitStack() as stack:
        replica, mesh = await stage.enter(stack)
        stub = mesh.client(ProbeClient)
        over = asyncio.Event()

        async def call_on() -> None:
            nonlocal done
            while not over.is_set():
                try:
                    await stub.write(Text(value="x"), timeout=30)
                    done += 1
                except Exception as error:
                    failures.append(error)
                await asyncio.sleep(0.02)

        callers = [asyncio.create_task(call_on()) for _ in range(4)]
        await eventually(lambda: done > 0)
        for _ in range(swaps):
            before, count = link_of(mesh)._current, done
            stage.server.replace(second := stage.authority.service("probe"))
            stage.client.replace(stage.authority.service("router"))
            await until_shown(replica, second)
            await eventually(
                lambda before=before, count=count: link_of(mesh)._current is not before and done > count
            )
        over.set()
        await asyncio.gather(*callers)
    assert failures == []
    assert sum(replica.service.begun.values()) == done  # type: ignore[attr-defined]


async def test_a_mesh_closes_while_it_connects_anew(stage: Stage, eventually: Any) -> None:
    async with AsyncExitStack() as stack:
        _, mesh = await stage.enter(stack)
        await mesh.client(ProbeClient).read(Text(value="x"), timeout=20)
        link = link_of(mesh)
        begun = link._current
        stage.client.replace(stage.authority.service("router"))
        await eventually(lambda: link._next is not None or link._current is not begun)
    assert link._next is None
    assert not link._leaving


async def test_a_link_may_be_closed_again_with_less_grace(stage: Stage, eventually: Any) -> None:
    """As when an instance leaves, and its caller closes while a call there is under way, on a connection replaced."""
    async with AsyncExitStack() as stack:
        replica, mesh = await stage.enter(stack)
        forever = asyncio.Event()

        async def endless(request: Text, call: Call) -> AsyncIterator[Text]:
            yield Text(value="first")
            await forever.wait()

        replica.service.behave["Follow"] = endless  # type: ignore[attr-defined]
        async with mesh.client(ProbeClient).follow(Text(), timeout=60) as replies:
            await anext(aiter(replies))
            link = link_of(mesh)
            before = link._current
            stage.client.replace(stage.authority.service("router"))
            await eventually(lambda: link._current is not before)
            patient = asyncio.ensure_future(link.close(60))
            await asyncio.sleep(0)
            await asyncio.wait_for(link.close(0), 20)
            await asyncio.wait_for(patient, 20)
            assert not link._leaving


async def test_connections_are_made_anew_under_load_and_fail_no_call(stage: Stage, eventually: Any) -> None:
    """So no connection outlives for long what it was made under; the age is that of streams."""
    async with AsyncExitStack() as stack:
        replica, mesh = await stage.enter(stack, stream_max_age_s=0.3)
        peers, stub, done = noting(replica.service), mesh.client(ProbeClient), 0
        async with asyncio.timeout(60):
            while len({peer.address for peer in peers}) < 5:
                await stub.read(Text(value="x"), timeout=30)
                await stub.write(Text(value="x"), timeout=30)
                done += 1
        assert len(peers) == replica.service.begun["Write"] == done  # type: ignore[attr-defined]


async def test_a_caller_of_an_authority_that_is_trusted_no_longer_is_shut_out_within_the_age_of_a_connection(
    stage: Stage, eventually: Any
) -> None:
    other = Signer()
    stage.server.ca.write_bytes(stage.authority.pem + other.pem)
    stage.client.replace(other.service("router"))
    stage.client.ca.write_bytes(stage.authority.pem + other.pem)
    async with AsyncExitStack() as stack:
        _, mesh = await stage.enter(stack, stream_max_age_s=0.5)
        stub = mesh.client(ProbeClient)
        await stub.read(Text(value="x"), timeout=30)
        stage.server.ca.write_bytes(stage.authority.pem)
        link = link_of(mesh)
        await eventually(lambda: "may not trust the certificate in GRPC_TLS_CLIENT_CERT" in link.trouble)
        with pytest.raises(Unavailable) as caught:
            await stub.read(Text(value="x"), timeout=1)
        assert caught.value.reason == "NO_INSTANCE"


async def test_a_caller_leaves_a_service_of_an_authority_that_it_trusts_no_longer(
    stage: Stage, eventually: Any
) -> None:
    other = Signer()
    stage.server.replace(other.service("probe"))
    stage.server.ca.write_bytes(stage.authority.pem + other.pem)
    stage.client.ca.write_bytes(stage.authority.pem + other.pem)
    async with AsyncExitStack() as stack:
        _, mesh = await stage.enter(stack, calling_with={"stream_max_age_s": 0.3})
        stub = mesh.client(ProbeClient)
        await stub.read(Text(value="x"), timeout=30)
        link = link_of(mesh)
        first = link._current
        stage.client.ca.write_bytes(stage.authority.pem)
        await eventually(lambda: link._current is not first)
        assert not link.ready
        with pytest.raises(Unavailable) as caught:
            await stub.read(Text(value="x"), timeout=1)
        assert caught.value.reason == "NO_INSTANCE"
