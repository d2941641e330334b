"""What Prometheus and Grafana are given is right: rules fire when they should, and ask for figures that there are."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from meshkit.measuring.replicas import of_process
from meshkit.telemetry.page import MetricsPage
from meshkit.telemetry.prometheus import prometheus_name
from meshkit.testing import LocalMesh
from tests.serving.probe import Probe, ProbeClient, Text
from tests.telemetry.test_page import free_port

FOLDER = Path(__file__).parents[2] / "infrastructure" / "observability"
DASHBOARD = FOLDER / "grafana" / "dashboards" / "meshkit.json"


def promtool(*arguments: str) -> None:
    done = subprocess.run(
        ["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_fire_when_they_should_and_only_then() -> None:
    promtool("test", "rules", "alerts_test.yml")


def test_prometheus_takes_its_configuration() -> None:
    promtool("check", "config", "prometheus.yml")


def expressions() -> list[str]:
    rules = [
        rule
        for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
        for rule in group["rules"]
    ]
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    return [*(rule["expr"] for rule in rules), *asked]


async def test_rules_and_dashboard_ask_for_figures_that_there_are() -> None:
    local = LocalMesh(Probe, settings={"metrics_port": 1}, tls=True)
    async with local as mesh:
        await mesh.client(ProbeClient).read(Text())
        (replica,) = local._running.values()
        await replica.mesh.client(ProbeClient).read(Text())
        names = {prometheus_name(family) for family in of_process([replica])} | {"meshkit_lease_age_seconds"}
    asked = {
        name.removesuffix("_bucket").removesuffix("_count")
        for text in expressions()
        for name in re.findall(
            r"\b(?:meshkit|rpc_server_call|rpc_client_call|process)_\w+", re.sub(r"\{[^}]*\}", "", text)
        )
        if not name.startswith(("rpc_method", "rpc_response"))
    }
    assert len(asked) > 15
    assert asked <= names, f"nobody shows {', '.join(sorted(asked - names))}"


def test_alerts_say_what_to_do() -> None:
    for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                assert rule["labels"]["severity"] in ("page", "ticket"), rule["alert"]
                assert {"summary", "mend"} <= rule["annotations"].keys(), rule["alert"]


def ask(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{path}", timeout=5) as answer:
        return json.load(answer)["data"]


async def firing(port: int) -> set[str]:
    """Names of the alerts that fire; none while Prometheus comes up."""
    with suppress(OSError):
        alerts = (await asyncio.to_thread(ask, port, "alerts"))["alerts"]
        return {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"}
    return set()


@pytest.fixture
def prometheus(tmp_path: Path) -> Any:
    """Starts a Prometheus that scrapes one page, with the rules; gives its port."""
    running: list[subprocess.Popen[bytes]] = []

    def start(scraped: int) -> int:
        port = free_port()
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(FOLDER / "alerts.yml")],
            "scrape_configs": [
                {"job_name": "meshkit", "static_configs": [{"targets": [f"127.0.0.1:{scraped}"]}]}
            ],
        }
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
        command = [
            "prometheus",
            f"--config.file={tmp_path}/prometheus.yml",
            f"--storage.tsdb.path={tmp_path}/data",
        ]
        command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
        running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        return port

    yield start
    for process in running:
        process.terminate()
        process.wait(30)


async def test_a_real_prometheus_scrapes_a_replica_and_fires(prometheus: Any) -> None:
    local, scraped = LocalMesh(Probe), free_port()
    async with local as mesh:
        await mesh.client(ProbeClient).read(Text())
        (replica,) = local._running.values()
        page = MetricsPage(lambda: of_process([replica]))
        assert await page.open("127.0.0.1", scraped)
        lease = replica._lease
        replica._lease = SimpleNamespace(renewed_at=time.monotonic() - 100)  # type: ignore[assignment]
        port = prometheus(scraped)
        async with asyncio.timeout(60):
            while "MeshkitLeaseOld" not in await firing(port):
                await asyncio.sleep(0.2)
        found = await asyncio.to_thread(ask, port, "query?query=rpc_server_call_duration_seconds_count")
        replica._lease = lease
        await page.close()
    (series,) = (
        each for each in found["result"] if each["metric"]["rpc_method"] == "probe.v1.ProbeService/Read"
    )
    assert series["value"][1] == "1"
    assert (series["metric"]["service"], series["metric"]["rpc_response_status_code"]) == ("probe", "OK")
    assert await firing(port) == {"MeshkitLeaseOld"}


def test_what_compose_adds_fits_the_mesh_that_it_is_added_to() -> None:
    root = FOLDER.parents[1]
    whole, added = (
        yaml.safe_load(file.read_text()) for file in (root / "docker-compose.yml", FOLDER / "compose.yml")
    )
    for name, service in added["services"].items():
        if name in ("prometheus", "grafana"):
            assert service["profiles"] == ["observability"]
            assert set(service["networks"]) <= whole["networks"].keys()
            for volume in service["volumes"]:
                assert (root / volume.partition(":")[0]).exists(), volume
        else:
            assert name in whole["services"]
            assert service["environment"]["METRICS_PORT"] == "9464"
