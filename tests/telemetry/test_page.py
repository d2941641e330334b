"""The page for Prometheus: its form, its figures, and what becomes of it when things are not as they should be."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
import structlog

from meshkit import PermissionDenied, Runtime
from meshkit.config import SharedConfig
from meshkit.discovery.memory import MemoryRegistry
from meshkit.measuring import of_process
from meshkit.mesh import Mesh
from meshkit.telemetry.calls import Histogram
from meshkit.telemetry.figures import Family, merged
from meshkit.telemetry.page import MetricsPage
from meshkit.telemetry.prometheus import exposition
from meshkit.testing import LocalMesh
from tests.serving.probe import Probe, ProbeClient, Text


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


async def get(port: int, request: str = "GET /metrics HTTP/1.1") -> tuple[str, str]:
    """The head and the body of an answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{request}\r\nHost: x\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    return head, body


def test_figures_are_written_as_prometheus_reads_them() -> None:
    counter = Family("meshkit.refusals", "counter", "{call}", "Refused\nones.")
    counter.add(3, reason='A "B"\n\\')
    histogram, durations = Histogram(), Family("rpc.server.call.duration", "histogram", "s", "How long.")
    for seconds in (0.0004, 0.2, 99.0):
        histogram.record(seconds)
    durations.add(histogram, rpc__method="a.B/C")
    lines = exposition([counter, durations, Family("empty", "gauge", "s", "Nothing.")]).splitlines()
    assert lines[:3] == [
        r"# HELP meshkit_refusals_total Refused\nones.",
        "# TYPE meshkit_refusals_total counter",
        r'meshkit_refusals_total{reason="A \"B\"\n\\"} 3',
    ]
    assert lines[3:6] == [
        "# HELP rpc_server_call_duration_seconds How long.",
        "# TYPE rpc_server_call_duration_seconds histogram",
        'rpc_server_call_duration_seconds_bucket{rpc_method="a.B/C",le="0.0005"} 1',
    ]
    assert lines[-3:] == [
        'rpc_server_call_duration_seconds_bucket{rpc_method="a.B/C",le="+Inf"} 3',
        'rpc_server_call_duration_seconds_sum{rpc_method="a.B/C"} 99.2004',
        'rpc_server_call_duration_seconds_count{rpc_method="a.B/C"} 3',
    ]
    assert "empty" not in "".join(lines)


def test_figures_of_several_services_are_one_family() -> None:
    families = [Family("meshkit.sheds", "counter", "{call}", "Shed.") for _ in range(2)]
    for family in families:
        family.add(1)
    (whole,) = merged([({"service": "a"}, families[:1]), ({"service": "b"}, families[1:])])
    assert whole.samples == [({"service": "a"}, 1), ({"service": "b"}, 1)]


@pytest.fixture
async def page() -> AsyncIterator[int]:
    """The port of a page with one figure."""
    family = Family("meshkit.sheds", "counter", "{call}", "Shed.")
    family.add(7)
    port, served = free_port(), MetricsPage(lambda: [family])
    assert await served.open("127.0.0.1", port)
    yield port
    await served.close()


@pytest.mark.parametrize(
    ("request_line", "status", "said"),
    [
        ("GET /metrics HTTP/1.1", "200 OK", "meshkit_sheds_total 7\n"),
        ("GET /metrics?x=1 HTTP/1.0", "200 OK", "meshkit_sheds_total 7\n"),
        ("HEAD /metrics HTTP/1.1", "200 OK", ""),
        ("GET / HTTP/1.1", "404 Not Found", "the page is /metrics\n"),
        ("POST /metrics HTTP/1.1", "405 Method Not Allowed", "only GET\n"),
    ],
)
async def test_only_the_page_is_served(page: int, request_line: str, status: str, said: str) -> None:
    head, body = await get(page, request_line)
    assert head.startswith(f"HTTP/1.1 {status}\r\n")
    assert body.endswith(said)


async def test_whoever_sends_no_request_is_not_answered_and_harms_nobody(page: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", page)
    writer.write(b"x" * 100_000)
    with suppress(ConnectionError):  # or the end of the stream, as the system likes
        assert await reader.read() == b""
    writer.close()
    assert (await get(page))[1].endswith("meshkit_sheds_total 7\n")


async def test_where_the_port_is_taken_the_page_is_on_a_free_one(page: int) -> None:
    second = MetricsPage(list)
    with structlog.testing.capture_logs() as lines:
        port = await second.open("127.0.0.1", page)
    assert port not in (0, page)
    assert (await get(port))[0].startswith("HTTP/1.1 200 OK")
    assert [line["url"] for line in lines] == [f"http://127.0.0.1:{port}/metrics"]
    await second.close()


async def test_what_cannot_be_bound_to_is_a_warning_that_names_the_settings() -> None:
    with structlog.testing.capture_logs() as lines:
        assert await MetricsPage(list).open("203.0.113.1", 9464) == 0
    (line,) = lines
    assert (line["log_level"], line["host"]) == ("warning", "203.0.113.1")
    assert "METRICS_HOST" in line["event"]


def numbers(families: list[Family]) -> dict[tuple[str, ...], Any]:
    """Each figure by its name and the values of its labels."""
    return {(family.name, *labels.values()): value for family in families for labels, value in family.samples}


async def test_a_replica_shows_what_it_serves_and_how_what_it_calls_looks() -> None:
    local = LocalMesh(Probe, settings={"metrics_port": 1, "zone": "eu-1"}, tls=True)
    async with local as mesh:
        await mesh.client(ProbeClient).read(Text(), tenant="acme")
        with pytest.raises(PermissionDenied):
            await mesh.client(ProbeClient, permissions=["other:read"]).read(Text())
        (replica,) = local._running.values()
        await replica.mesh.client(ProbeClient).read(Text(), tenant="acme")
        found = numbers(of_process([replica]))
    method = ("probe", "grpc", "probe.v1.ProbeService/Read")
    assert found["rpc.server.call.duration", *method, "OK"].count == 2
    assert found["rpc.server.call.duration", *method, "PERMISSION_DENIED"].count == 1
    assert found["rpc.client.call.duration", *method, "OK", "probe"].count == 1
    assert found["meshkit.refusals", "probe", "PERMISSION_MISSING"] == 1
    assert (found["meshkit.state", "probe", "serving"], found["meshkit.state", "probe", "draining"]) == (1, 0)
    assert found["meshkit.endpoints", "probe", "probe", "ready"] == 1
    assert found["meshkit.gates", "probe", "probe", "open"] == 1
    assert found["meshkit.picks", "probe", "probe"] == 1
    assert found["meshkit.budget", "probe"] > 1
    assert 0 < found["meshkit.certificate.left", "probe", "server"] <= 400 * 86400
    assert found["meshkit.calls.limit", "probe"] == 1000
    assert found["process.memory.usage",] > 1e6
    assert not any("acme" in label for key in found for label in key), "tenants are no labels"


@pytest.mark.parametrize("taken", [False, True])
async def test_a_runtime_shows_its_page_from_start_to_end_and_others_learn_where(
    tmp_path: Any, taken: bool
) -> None:
    port, registry = free_port(), MemoryRegistry()
    config = Probe.config_class()(
        grpc_port=0, state_dir=tmp_path, metrics_port=port, drain_propagation_s=0, project_secret="s" * 32
    )
    holder = socket.create_server(("127.0.0.1", port)) if taken else None
    stop = asyncio.Event()
    serving = asyncio.create_task(Runtime(Probe, configs={Probe: config}, registry=registry).serve(stop))
    async with Mesh(SharedConfig(state_dir=tmp_path, tenant="t", project_secret="s" * 32), registry) as mesh:
        await mesh.client(ProbeClient).read(Text())
        (instance,) = await mesh.instances("probe")
        host, _, shown = instance.metrics.rpartition(":")
        assert (host, int(shown) == port) == ("127.0.0.1", not taken)
        assert 'meshkit_state{service="probe",state="serving"} 1' in (await get(int(shown)))[1]
    stop.set()
    await serving
    if holder is not None:
        holder.close()
    with pytest.raises(OSError):
        await get(int(shown))
