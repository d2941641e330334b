"""What Prometheus and Grafana are given is right: rules fire when they should, and ask for figures that there are."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import yaml

from meshkit.measuring import of_process
from meshkit.telemetry.page import MetricsPage
from meshkit.telemetry.prometheus import prometheus_name
from meshkit.testing import LocalMesh
from tests import prometheus
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


async def test_a_real_prometheus_scrapes_a_replica_and_fires(tmp_path: Path) -> None:
    local, scraped = LocalMesh(Probe), free_port()
    targets = {"static_configs": [{"targets": [f"127.0.0.1:{scraped}"]}]}
    with prometheus.running(tmp_path / "prometheus", targets, [FOLDER / "alerts.yml"]) as real:
        async with local as mesh:
            await mesh.client(ProbeClient).read(Text())
            (replica,) = local._running.values()
            page = MetricsPage(lambda: of_process([replica]))
            assert await page.open("127.0.0.1", scraped)
            lease = replica._lease
            replica._lease = SimpleNamespace(renewed_at=time.monotonic() - 100)  # type: ignore[assignment]
            async with asyncio.timeout(60):
                while "MeshkitLeaseOld" not in await asyncio.to_thread(real.firing):
                    await asyncio.sleep(0.1)
            found = await asyncio.to_thread(real.series, "rpc_server_call_duration_seconds_count")
            replica._lease = lease
            await page.close()
        (series,) = (each for each in found if each["metric"]["rpc_method"] == "probe.v1.ProbeService/Read")
        assert series["value"][1] == "1"
        assert (series["metric"]["service"], series["metric"]["rpc_response_status_code"]) == ("probe", "OK")
        assert real.firing() == {"MeshkitLeaseOld"}
        rules = [rule for group in real.ask("rules")["groups"] for rule in group["rules"]]
        assert {rule["health"] for rule in rules} == {"ok"}


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
                where = volume.partition(":")[0]
                assert (root / where).exists() if "/" in where else where in added["volumes"], volume
        else:
            assert name in whole["services"]
            assert service["environment"]["METRICS_PORT"] == "9464"
