"""Traces: a span on each side of each call, once, with the status that the conventions want; all in one tree."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from opentelemetry import trace

from meshkit import Call, NotFound, Unavailable, every
from meshkit.testing import LocalMesh
from tests.serving.probe import CONTRACT, Probe, ProbeClient, Text
from tests.telemetry.collector import CLIENT, ERROR, INTERNAL, SERVER, UNSET, Collector

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Front(Probe, contract=CONTRACT, name="front"):
    """Calls the probe."""


class Busy(Probe, contract=CONTRACT, name="busy"):
    """Calls the probe once, from a job."""

    @every(seconds=0.05)
    async def work(self) -> None:
        if "job" in self.behave and not self.behave["job"].is_set():
            self.behave["job"].set()
            await self.mesh.client(ProbeClient).read(Text(value="from a job"), tenant="acme")


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as made:
        yield made


@asynccontextmanager
async def meshed(
    collector: Collector, *kinds: type[Probe], **options: Any
) -> AsyncIterator[tuple[LocalMesh, Any]]:
    settings = {"otel_enabled": True, "otel_exporter_otlp_endpoint": collector.url, "zone": "eu-1"}
    local = LocalMesh(*(kinds or (Probe,)), settings=settings, **options)
    async with local as mesh:
        yield local, mesh


def service(local: LocalMesh, name: str) -> Any:
    return next(local.service(each) for each in local.instances if each.startswith(name))


@pytest.mark.parametrize("method", ["read", "list"])
async def test_a_call_through_a_service_is_one_tree(collector: Collector, method: str) -> None:
    async with meshed(collector, Front, Probe) as (local, mesh):
        front, name = service(local, "front"), method.capitalize()

        async def on(request: Text, call: Call) -> Text:
            return await front.mesh.client(ProbeClient).read(request)  # type: ignore[no-any-return]

        async def on_many(request: Text, call: Call) -> AsyncIterator[Text]:
            async for reply in front.mesh.client(ProbeClient).list(request):
                yield reply

        front.behave[name] = on if method == "read" else on_many
        call = getattr(mesh.client(ProbeClient, service="front"), method)(Text(), tenant="acme")
        if method == "list":
            assert [reply async for reply in call]
        else:
            await call
        inner = service(local, "probe").calls[0]
    first, second = collector.one("client", CLIENT), collector.one("front", SERVER)
    third, fourth = collector.one("front", CLIENT), collector.one("probe", SERVER)
    assert len({span.trace_id for span in collector.spans}) == 1
    assert [span.parent_id for span in (first, second, third, fourth)] == [
        "",
        first.span_id,
        second.span_id,
        third.span_id,
    ]
    assert (inner.trace.trace_id, inner.trace.span_id) == (fourth.trace_id, fourth.span_id)
    assert {span.status for span in collector.spans} == {UNSET}
    assert {span.name for span in collector.spans} == {f"probe.v1.ProbeService/{name}"}
    expected = {
        "rpc.system.name": "grpc",
        "rpc.method": f"probe.v1.ProbeService/{name}",
        "rpc.response.status_code": "OK",
    }
    for span in collector.spans:
        assert expected.items() <= span.facts.items()
    assert third.facts["server.address"] == "probe"
    assert third.facts["meshkit.instance"].startswith("probe-")
    assert (second.facts["meshkit.tenant"], second.facts["meshkit.caller"]) == ("acme", "local/client")
    resource = second.resource
    assert (resource["service.instance.id"][:6], resource["cloud.availability_zone"]) == ("front-", "eu-1")
    assert (resource["service.namespace"], resource["service.version"]) == ("contextunity", "0.0.0")


async def test_failures_have_the_status_that_each_side_gives_them(collector: Collector) -> None:
    async def not_there(request: Text, call: Call) -> Text:
        raise NotFound("no such cell", reason="CELL_UNKNOWN")

    async def broken(request: Text, call: Call) -> Text:
        raise ValueError("canary")

    async with meshed(collector) as (local, mesh):
        service(local, "probe").behave |= {"Read": not_there, "Write": broken}
        client = mesh.client(ProbeClient)
        for call in (client.read, client.write):
            with pytest.raises(Exception, match=r"no such cell|incident"):
                await call(Text())
    caller, served = (collector.one(*side, "Read") for side in (("client", CLIENT), ("probe", SERVER)))
    assert (caller.status, caller.message) == (ERROR, "no such cell")
    assert (caller.facts["error.type"], caller.facts["meshkit.reason"]) == ("NOT_FOUND", "CELL_UNKNOWN")
    assert served.status == UNSET, "the caller's own fault is no error of the server"
    assert "error.type" not in served.facts
    caller, served = (collector.one(*side, "Write") for side in (("client", CLIENT), ("probe", SERVER)))
    assert (caller.status, served.status) == (ERROR, ERROR)
    assert served.facts["rpc.response.status_code"] == "INTERNAL"
    assert served.facts["meshkit.incident"] == caller.facts["meshkit.incident"]
    assert "canary" not in str(collector.spans)
    assert [event for span in collector.spans for event in span.events] == [], "nothing is recorded twice"


async def test_attempts_are_events_of_the_one_span_of_a_call(collector: Collector) -> None:
    failures = [Unavailable("not now", reason="BUSY")]

    async def once(request: Text, call: Call) -> Text:
        if failures:
            raise failures.pop()
        return request

    async with meshed(collector, replicas=2) as (local, mesh):
        for each in local.instances:
            local.service(each).behave["Read"] = once  # type: ignore[attr-defined]
        await mesh.client(ProbeClient).read(Text())
    caller = collector.one("client", CLIENT)
    assert caller.status == UNSET
    ((event, facts),) = caller.events
    assert event == "meshkit.attempt.failed"
    assert (facts["rpc.response.status_code"], facts["meshkit.reason"]) == ("UNAVAILABLE", "BUSY")
    assert facts["meshkit.instance"] != caller.facts["meshkit.instance"]
    attempts = [span for span in collector.spans if span.kind == SERVER]
    assert sorted(span.status for span in attempts) == [UNSET, ERROR]
    assert {span.parent_id for span in attempts} == {caller.span_id}


async def test_spans_of_the_services_own_code_are_within_its_call(collector: Collector) -> None:
    async with meshed(collector) as (local, mesh):
        probe = service(local, "probe")

        async def spanning(request: Text, call: Call) -> Text:
            tracer = probe.mesh.telemetry.tracer_provider.get_tracer("mine")
            with tracer.start_as_current_span("think"):
                return request

        probe.behave["Read"] = spanning
        await mesh.client(ProbeClient).read(Text())
    assert collector.one("probe", INTERNAL).parent_id == collector.one("probe", SERVER).span_id


async def test_a_job_is_a_trace_and_its_calls_are_within_it(collector: Collector) -> None:
    async with meshed(collector, Busy, Probe) as (local, _):
        probe, done = service(local, "probe"), asyncio.Event()
        service(local, "busy").behave["job"] = done
        while not probe.calls:
            await probe.changed.wait()
        assert done.is_set()
    caller = collector.one("busy", CLIENT)
    job = next(span for span in collector.spans if span.span_id == caller.parent_id)
    assert (job.name, job.kind, job.parent_id) == ("busy work", INTERNAL, "")
    assert collector.one("probe", SERVER).parent_id == caller.span_id


async def test_what_is_told_by_the_caller_is_taken_and_baggage_goes_along(collector: Collector) -> None:
    sent = {"traceparent": PARENT, "tracestate": "vendor=1", "baggage": "user=ada"}
    async with meshed(collector) as (local, mesh):
        await mesh.client(ProbeClient).read(Text(), metadata=sent)
        (call,) = service(local, "probe").calls
    caller = collector.one("client", CLIENT)
    assert (caller.trace_id, caller.parent_id) == (PARENT[3:35], PARENT[36:52])
    assert call.trace.trace_id == caller.trace_id
    assert (call.trace.state, call.trace.baggage) == ("vendor=1", "user=ada")


async def test_what_the_caller_does_not_record_nobody_records(collector: Collector) -> None:
    spans = []

    async def spanning(request: Text, call: Call) -> Text:
        spans.append(trace.get_current_span())
        return request

    async with meshed(collector) as (local, mesh):
        service(local, "probe").behave["Read"] = spanning
        await mesh.client(ProbeClient).read(Text(), metadata={"traceparent": f"{PARENT[:-1]}0"})
        (call,) = service(local, "probe").calls
    assert collector.spans == []
    assert call.trace.parent == f"{PARENT[:-1]}0", "and it goes on as it came"
    assert spans[0].get_span_context().trace_id == int(PARENT[3:35], 16)
    assert not spans[0].get_span_context().trace_flags.sampled


async def test_the_standard_variables_choose_what_is_sampled(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    async with meshed(collector) as (local, mesh):
        client = mesh.client(ProbeClient)
        for _ in range(60):
            await client.read(Text())
        calls = service(local, "probe").calls
    sampled = {span.trace_id for span in collector.spans}
    assert 5 < len(sampled) < 55
    assert len(collector.spans) == 2 * len(sampled), "both sides decide alike"
    assert len({call.trace.trace_id for call in calls}) == 60
    assert {call.trace.trace_id for call in calls if call.trace.sampled} == sampled


async def test_a_method_that_there_is_not_has_the_name_of_all_such(collector: Collector) -> None:
    async with meshed(collector) as (_, mesh):
        call = mesh.channel("probe").unary_unary("/probe.v1.ProbeService/Nonsense")
        with pytest.raises(Exception, match="has no method"):
            await call(b"")
    served = collector.one("probe", SERVER)
    assert (served.name, served.status) == ("_OTHER", ERROR)
    assert served.facts["rpc.method_original"] == "probe.v1.ProbeService/Nonsense"
