"""However a call ends, its figures and its line in the log have the status that its caller sees."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import structlog

from meshkit import Call, DeadlineExceeded, Unavailable
from meshkit.replica import Replica
from meshkit.testing import LocalMesh
from tests.serving.probe import CONTRACT, Probe, ProbeClient, ProbeStub, Text

SETTINGS = {"log_access_rate": 100.0, "drain_grace_s": 0.5, "drain_streams_s": 0.0, "metrics_port": 1}

METHODS = ["Write", "Follow", "Collect", "Talk"]
"""One of each arity; none of them is tried again."""


async def forever(_request: Any, _call: Call) -> Text:
    await asyncio.Event().wait()
    return Text()


async def forever_many(_request: Any, _call: Call) -> AsyncIterator[Text]:
    await asyncio.Event().wait()
    yield Text()


async def requests() -> AsyncIterator[Text]:
    yield Text()


def begin(mesh: Any, method: str, **options: Any) -> Any:
    """Makes a call of whichever arity as a stub does."""
    streams = CONTRACT.methods_by_name[method].client_streaming
    return getattr(ProbeStub(mesh.channel("probe")), method)(requests() if streams else Text(), **options)


async def drive(call: Any) -> None:
    """Awaits a call, or its replies."""
    if hasattr(call, "__aiter__"):
        async for _ in call:
            pass
    else:
        await call


def line_of(lines: list[Any], method: str) -> dict[str, Any]:
    (line,) = (each for each in lines if each["event"] == "served" and each["method"].endswith(method))
    return dict(line)


def counted(replica: Replica, method: str) -> dict[str, int]:
    tally = replica.observer.calls.by_method[f"probe.v1.ProbeService/{method}"]
    return {code: found.count for code, found in tally.by_code.items()}


def waiting(local: LocalMesh) -> Any:
    """The service, whose methods never end."""
    (replica,) = local._running.values()
    replica.service.behave |= {  # type: ignore[attr-defined]
        name: forever_many if CONTRACT.methods_by_name[name].server_streaming else forever for name in METHODS
    }
    return replica.service


async def test_calls_that_the_drain_ends_are_unavailable() -> None:
    local = LocalMesh(Probe, settings=SETTINGS)
    with structlog.testing.capture_logs() as lines:
        async with local as mesh:
            (replica,) = local._running.values()
            probe = waiting(local)
            calls = [begin(mesh, method, timeout=30) for method in METHODS]
            driven = [asyncio.ensure_future(drive(call)) for call in calls]
            await probe.until(lambda: probe.begun.total() == len(METHODS))
            await replica.drain()
            for failure in await asyncio.gather(*driven, return_exceptions=True):
                assert isinstance(failure, grpc.aio.AioRpcError)
            assert {await call.code() for call in calls} == {grpc.StatusCode.UNAVAILABLE}
    for method in METHODS:
        line = line_of(lines, method)
        assert (line["code"], line["reason"], line["log_level"]) == ("UNAVAILABLE", "DRAINING", "warning")
        assert counted(replica, method) == {"UNAVAILABLE": 1}
    assert not replica.observer.refusals.counts, "the service's own code had begun"


async def test_calls_that_their_caller_gives_up_are_cancelled() -> None:
    local = LocalMesh(Probe, settings=SETTINGS)
    with structlog.testing.capture_logs() as lines:
        async with local as mesh:
            (replica,) = local._running.values()
            probe = waiting(local)
            calls = [begin(mesh, method, timeout=30) for method in METHODS]
            driven = [asyncio.ensure_future(drive(call)) for call in calls]
            await probe.until(lambda: probe.begun.total() == len(METHODS))
            for call in calls:
                call.cancel()
            for failure in await asyncio.gather(*driven, return_exceptions=True):
                assert isinstance(failure, asyncio.CancelledError)
            await probe.until(lambda: probe.ended.total() == len(METHODS))
    for method in METHODS:
        line = line_of(lines, method)
        assert (line["code"], line["log_level"]) == ("CANCELLED", "info")
        assert counted(replica, method) == {"CANCELLED": 1}


async def test_calls_whose_deadline_passes_have_exceeded_it() -> None:
    """Their caller's clock, which began before the service's, ends them a moment before the service's would."""
    local = LocalMesh(Probe, settings=SETTINGS)
    with structlog.testing.capture_logs() as lines:
        async with local as mesh:
            (replica,) = local._running.values()
            probe = waiting(local)
            calls = [drive(begin(mesh, method, timeout=1)) for method in METHODS for _ in range(10)]
            for failure in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(failure, grpc.aio.AioRpcError)
                assert failure.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            await probe.until(lambda: probe.ended.total() == len(calls))
    assert {each["code"] for each in lines if each["event"] == "served"} == {"DEADLINE_EXCEEDED"}
    assert [counted(replica, method) for method in METHODS] == [{"DEADLINE_EXCEEDED": 10}] * len(METHODS)


async def test_both_sides_count_alike() -> None:
    local = LocalMesh(Probe, settings=SETTINGS)
    async with local as mesh:
        waiting(local)
        client = mesh.client(ProbeClient)
        with pytest.raises(DeadlineExceeded):
            await client.write(Text(), timeout=1)
        (tally,) = mesh.calls["probe"].by_method.values()
        assert {code: each.count for code, each in tally.by_code.items()} == {"DEADLINE_EXCEEDED": 1}
        (replica,) = local._running.values()
        driven = asyncio.ensure_future(client.write(Text(), timeout=30))
        probe: Any = replica.service
        await probe.until(lambda: probe.begun["Write"] == 2)
        await replica.drain()
        with pytest.raises(Unavailable):
            await driven
        assert tally.by_code["UNAVAILABLE"].count == 1
