"""What Grafana is given: panels that show something, and files of the form that it documents."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshkit import Call, MeshError, SharedConfig
from meshkit.discovery import registry_of
from meshkit.measuring import of_process
from meshkit.telemetry.page import MetricsPage
from meshkit.testing import LocalMesh
from tests import prometheus
from tests.serving.probe import CONTRACT, Probe, ProbeClient, Text
from tests.telemetry.test_page import free_port

FOLDER = Path(__file__).parents[2] / "infrastructure" / "observability"
GRAFANA = FOLDER / "grafana"
PROVISIONING = GRAFANA / "provisioning"
DASHBOARDS = [pytest.param(path, id=path.stem) for path in sorted((GRAFANA / "dashboards").glob("*.json"))]
SECONDS = 60.0


class Front(Probe, contract=CONTRACT, name="front"):
    """Calls the probe."""


def panels(path: Path) -> list[Any]:
    return [each for each in json.loads(path.read_text())["panels"] if each["type"] != "row"]


def queries(path: Path) -> dict[str, str]:
    """What each panel asks, by its title and the letter of the query, with Grafana's variables put in."""
    found = {}
    for panel in panels(path):
        for target in panel["targets"]:
            asked = target["expr"].replace("$__rate_interval", "1m").replace("$service", ".*")
            assert "$" not in asked, f"{panel['title']}: {asked}"
            found[f"{panel['title']} {target['refId']}"] = asked
    return found


async def load(mesh: Any) -> None:
    """Calls of every kind of outcome, without end: served, failed, refused."""
    front, refused = (
        mesh.client(ProbeClient, service="front", permissions=held) for held in (["*"], ["other:use"])
    )
    while True:
        for call in (front.read, front.write, refused.read):
            with suppress(MeshError):
                await call(Text())
        await asyncio.sleep(0.02)


async def broken(request: Text, call: Call) -> Text:
    raise ValueError("as it should")


@pytest.mark.parametrize("path", DASHBOARDS)
async def test_every_panel_shows_something_of_a_mesh_under_load(path: Path, tmp_path: Path) -> None:
    local, port = LocalMesh(Front, Probe, settings={"metrics_port": 1}, tls=True), free_port()
    registry = registry_of(SharedConfig(registry_url=f"file://{tmp_path}/registry"))
    local.registry = registry  # type: ignore[assignment]  # one whose leases have an age
    async with AsyncExitStack() as stack:
        stack.push_async_callback(registry.close)
        mesh = await stack.enter_async_context(local)
        replicas = list(local._running.values())
        front = next(replica for replica in replicas if replica.name == "front")

        async def on(request: Text, call: Call) -> Text:
            return await front.mesh.client(ProbeClient).read(request)  # type: ignore[no-any-return]

        front.service.behave |= {"Read": on, "Write": broken}  # type: ignore[attr-defined]
        page = MetricsPage(lambda: of_process(replicas))
        assert await page.open("127.0.0.1", port)
        stack.push_async_callback(page.close)
        loading = asyncio.create_task(load(mesh))
        stack.callback(loading.cancel)
        targets = {"static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
        real = stack.enter_context(prometheus.running(tmp_path / "prometheus", targets))
        empty = queries(path)
        assert len(empty) > 20
        with suppress(TimeoutError):
            async with asyncio.timeout(SECONDS):
                while empty:
                    for name, asked in list(empty.items()):
                        if await asyncio.to_thread(real.series, asked):
                            del empty[name]
                    await asyncio.sleep(0.1)
        assert not empty, "these panels show nothing"
        assert not loading.done()


@pytest.mark.parametrize("path", DASHBOARDS)
def test_a_dashboard_is_whole(path: Path) -> None:
    """As the JSON model of a dashboard is documented; nothing overlaps, or reaches beyond the 24 columns."""
    whole = json.loads(path.read_text())
    assert whole["uid"]
    assert whole["title"]
    assert whole["schemaVersion"] >= 36
    taken: set[tuple[int, int]] = set()
    for panel in whole["panels"]:
        place = panel["gridPos"]
        cells = {
            (place["x"] + column, place["y"] + row)
            for column in range(place["w"])
            for row in range(place["h"])
        }
        assert not taken & cells, panel["title"]
        assert max(column for column, _ in cells) < 24, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in whole["panels"]}) == len(whole["panels"])


def provisioned(kind: str) -> list[Any]:
    """What the files of a kind say; each is of version 1, with one list of that name."""
    found = []
    for path in (PROVISIONING / kind).iterdir():
        file = yaml.safe_load(path.read_text())
        assert file.keys() == {"apiVersion", "providers" if kind == "dashboards" else kind}, path
        assert file["apiVersion"] == 1
        found += file["providers" if kind == "dashboards" else kind]
    return found


def test_the_dashboards_ask_the_data_source_that_there_is() -> None:
    (source,) = provisioned("datasources")
    assert {"name", "type", "url", "uid"} <= source.keys()
    assert source["type"] == "prometheus"
    compose = yaml.safe_load((FOLDER / "compose.yml").read_text())["services"]
    name, _, port = source["url"].removeprefix("http://").partition(":")
    assert compose[name]["ports"][0].rpartition(":")[2] == port
    wanted = {"type": source["type"], "uid": source["uid"]}
    for path in (GRAFANA / "dashboards").glob("*.json"):
        for panel in panels(path):
            assert [panel["datasource"], *(each["datasource"] for each in panel["targets"])] == [wanted] * (
                1 + len(panel["targets"])
            )
        for variable in json.loads(path.read_text())["templating"]["list"]:
            assert variable["datasource"] == wanted


def test_the_dashboards_are_where_grafana_looks_for_them() -> None:
    (provider,) = provisioned("dashboards")
    assert {"name", "type", "options"} <= provider.keys()
    mounts = yaml.safe_load((FOLDER / "compose.yml").read_text())["services"]["grafana"]["volumes"]
    inside = {
        target: FOLDER.parents[1] / source
        for source, target, _ in (each.split(":") for each in mounts if each.endswith(":ro"))
    }
    assert inside[provider["options"]["path"]].samefile(GRAFANA / "dashboards")
    assert inside["/etc/grafana/provisioning"].samefile(PROVISIONING)
