"""What travels from a call to the calls that are made for it: trace, baggage, criticality."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from meshkit import Call
from meshkit.call import Trace
from meshkit.testing import LocalMesh
from tests.serving.probe import CONTRACT, Probe, ProbeClient, Text

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-00"


class Front(Probe, contract=CONTRACT, name="front"):
    """Calls the probe for its caller."""


class Two:
    """A caller, and a service behind another."""

    def __init__(self, local: LocalMesh, mesh: Any) -> None:
        first, second = (local.service(name) for name in sorted(local.instances))
        self.front: Any = first
        self.probe: Any = second
        self.client: Any = mesh.client(ProbeClient, service="front")
        self.mesh = mesh
        self.front.behave["Read"] = self._on
        self.front.behave["List"] = self._on_many

    async def _on(self, request: Text, call: Call) -> Text:
        reply: Text = await self.front.mesh.client(ProbeClient).read(request)
        return reply

    async def _on_many(self, request: Text, call: Call) -> AsyncIterator[Text]:
        async for reply in self.front.mesh.client(ProbeClient).list(request):
            yield reply

    @property
    def calls(self) -> tuple[Call, Call]:
        (first,), (second,) = self.front.calls, self.probe.calls
        return first, second


@pytest.fixture
async def two() -> AsyncIterator[Two]:
    local = LocalMesh(Front, Probe)
    async with local as mesh:
        yield Two(local, mesh)


@pytest.mark.parametrize("method", ["read", "list"])
async def test_a_trace_goes_on_through_a_service_that_records_none_as_it_came(two: Two, method: str) -> None:
    sent = {"traceparent": PARENT, "tracestate": "vendor=1", "baggage": "user=ada"}
    call = getattr(two.client, method)(Text(), metadata=sent)
    if method == "list":
        assert len([reply async for reply in call]) == 3
    else:
        await call
    first, second = two.calls
    assert first.trace == Trace(PARENT, "vendor=1", "user=ada")
    assert second.trace == first.trace


async def test_a_call_that_nobody_traces_has_a_trace_of_its_own_from_the_first_service_on(two: Two) -> None:
    await two.client.read(Text())
    first, second = two.calls
    assert first.trace.trace_id == second.trace.trace_id
    assert not first.trace.sampled
    two.front.calls.clear()
    two.probe.calls.clear()
    await two.client.read(Text())
    assert two.calls[0].trace.trace_id != first.trace.trace_id


async def test_criticality_and_tenant_go_on_through_a_service(two: Two) -> None:
    await two.client.read(Text(), criticality="sheddable", tenant="acme")
    first, second = two.calls
    assert (first.criticality, second.criticality) == ("sheddable", "sheddable")
    assert (first.tenant, second.tenant) == ("acme", "acme")


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "nonsense",
        PARENT[:-1],
        PARENT.upper(),
        f"ff-{TRACE}-00f067aa0ba902b7-01",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE}-{'0' * 16}-01",
    ],
)
def test_what_is_no_trace_begins_a_new_one(parent: str) -> None:
    trace = Trace.parse(parent, "vendor=1", "user=ada")
    assert trace.parent != parent
    assert len(trace.trace_id) == 32
    assert trace.trace_id != TRACE
    assert trace.state == ""
