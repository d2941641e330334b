"""What is sent by OTLP; and that a service serves whatever becomes of it."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import structlog

from meshkit.config import SharedConfig
from meshkit.telemetry import otlp
from meshkit.telemetry.extra import open_telemetry
from meshkit.testing import LocalMesh
from tests.serving.probe import Probe, ProbeClient, Text
from tests.telemetry.collector import Collector


def settings(url: str) -> dict[str, Any]:
    return {"otel_enabled": True, "otel_exporter_otlp_endpoint": url}


async def test_figures_of_both_sides_arrive_and_so_do_those_of_others() -> None:
    with Collector() as collector:
        local = LocalMesh(Probe, settings=settings(collector.url))
        async with local as mesh:
            (replica,) = local._running.values()
            assert replica.telemetry is not None
            meter = replica.telemetry.meter_provider.get_meter("shop")
            meter.create_counter("shop.orders").add(3)
            for _ in range(2):
                await mesh.client(ProbeClient).read(Text())
    served = collector.metrics["probe", "rpc.server.call.duration"]
    made = collector.metrics["client", "rpc.client.call.duration"]
    for metric in (served, made):
        (point,) = metric.histogram.data_points
        assert (point.count, sum(point.bucket_counts), metric.unit) == (2, 2, "s")
        assert point.sum > 0
        assert not point.HasField("min")
        assert point.start_time_unix_nano < point.time_unix_nano
    (picks,) = collector.metrics["client", "meshkit.picks"].sum.data_points
    assert picks.as_double == 2
    assert collector.metrics["client", "meshkit.picks"].sum.is_monotonic
    assert collector.metrics["probe", "meshkit.loop.lag"].WhichOneof("data") == "gauge"
    assert collector.metrics["probe", "shop.orders"].sum.data_points[0].as_int == 3


@pytest.fixture
def refusing() -> str:
    """An endpoint where nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{found.getsockname()[1]}"


@pytest.mark.parametrize("how", ["refusing", "silent"])
async def test_an_endpoint_that_takes_nothing_costs_a_warning_and_no_call(
    how: str, refusing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp, "LAST_S", 0.3)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "64")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "16")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    with Collector(silent=True) as collector, structlog.testing.capture_logs() as lines:
        url = refusing if how == "refusing" else collector.url
        local = LocalMesh(Probe, settings=settings(url))
        async with local as mesh:
            client = mesh.client(ProbeClient)
            for _ in range(100):
                await client.read(Text())
            while not _warnings(lines):
                await asyncio.sleep(0.01)
            assert mesh.telemetry is not None
            kept = mesh.telemetry.tracer_provider._active_span_processor._span_processors[0]
            assert len(kept._batch_processor._queue) <= 64  # type: ignore[attr-defined]
            left = time.monotonic()
        assert time.monotonic() - left < 10
    told = _warnings(lines)
    assert len(told) == 2, "one of the service, one of who calls it"
    assert all(line["endpoint"] == url and "OTEL_ENABLED" in line["event"] for line in told)


def _warnings(lines: Any) -> list[Any]:
    return [line for line in lines if line["log_level"] in ("warning", "error")]


def test_it_is_told_when_what_is_sent_is_taken_again() -> None:
    reachable = otlp.Reachable("http://there")
    with structlog.testing.capture_logs() as lines:
        for well in (True, False, False, True, True):
            reachable.note(well)
    assert [line["log_level"] for line in lines] == ["warning", "info"]


def test_without_it_nothing_of_the_sdk_is_there(tmp_path: Path) -> None:
    assert open_telemetry(SharedConfig(state_dir=tmp_path), "brain") is None
    look = (
        "import asyncio, sys\nfrom tests.serving.probe import Probe, ProbeClient, Text\n"
        "from meshkit.testing import LocalMesh\n"
        "async def main():\n"
        "    async with LocalMesh(Probe) as mesh:\n"
        "        await mesh.client(ProbeClient).read(Text())\n"
        "asyncio.run(main())\n"
        "sys.exit(str([name for name in sys.modules if name.startswith('opentelemetry')] or 0))"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=False)
    assert done.stderr == "0\n"


WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from tests.serving.probe import Probe
Probe.run()
"""


def test_where_it_is_not_installed_the_report_says_what_to_install(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT],
        capture_output=True,
        text=True,
        check=False,
        env={"OTEL_ENABLED": "true", "HOME": str(tmp_path), "GRPC_PORT": "0"},
    )
    assert done.returncode == 78
    assert "OTEL_ENABLED" in done.stderr
    assert "pip install 'meshkit[otel]'" in done.stderr
