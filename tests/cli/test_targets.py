"""All replicas are scraped, whatever is scaled: by a real Prometheus, from the file that `meshkit up` keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from meshkit.cli.output import Failure
from meshkit.cli.targets import Pages, targets
from meshkit.discovery import Snapshot
from meshkit.instance import Instance
from tests import prometheus
from tests.cli.running import meshkit, until, up
from tests.telemetry.test_page import free_port


def snapshot(service: str, *pages: str) -> Snapshot:
    instances = [
        Instance(service=service, instance_id=f"{service}-{number}", address=f"a:{number}", metrics=page)
        for number, page in enumerate(pages, 1)
    ]
    return Snapshot(service, {each.instance_id: each for each in instances})


def test_each_page_is_there_once() -> None:
    found = targets([snapshot("router", "h:1", ""), snapshot("brain", "h:2", "h:1")])
    zone = {"__meta_meshkit_zone": ""}
    assert found == [
        {
            "targets": ["h:2"],
            "labels": {"__meta_meshkit_service": "brain", "__meta_meshkit_instance": "brain-1", **zone},
        },
        {
            "targets": ["h:1"],
            "labels": {
                "__meta_meshkit_service": "brain,router",
                "__meta_meshkit_instance": "brain-2,router-1",
                **zone,
            },
        },
    ]


def test_the_file_is_replaced_where_something_changes(tmp_path: Path) -> None:
    pages = Pages(tmp_path / "targets.json")
    pages.write([snapshot("brain", "h:1")])
    first = pages.path.stat()
    pages.write([snapshot("brain", "h:1")])
    assert pages.path.stat().st_ino == first.st_ino
    pages.write(())
    assert json.loads(pages.path.read_text()) == []
    assert [each.name for each in tmp_path.iterdir()] == ["targets.json"]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"nowhere/targets\.json cannot be written: No such file"):
        Pages(tmp_path / "nowhere" / "targets.json").write(())


def test_prometheus_scrapes_all_replicas_and_follows_their_number(tmp_path: Path) -> None:
    state, first = tmp_path / "state", free_port()
    by_id = [{"source_labels": ["__meta_meshkit_instance"], "target_label": "instance"}]
    found = {"file_sd_configs": [{"files": [str(state / "targets.json")]}], "relabel_configs": by_id}
    with (
        up(state, "main:Greeter", "greeter=3", METRICS_PORT=str(first)) as running,
        prometheus.running(tmp_path / "prometheus", found) as real,
    ):
        running.until(f"where Prometheus finds the metrics (file_sd_configs): {state}/targets.json")
        until(lambda: len(real.scraped()) == 3)
        assert f"127.0.0.1:{first}" in real.scraped()
        assert meshkit(state, "scale", "greeter=1").returncode == 0
        until(lambda: len(real.scraped()) == 1)
        (left,) = real.scraped().values()
        done = meshkit(state, "services", "--prometheus", str(state / "asked.json"))
        assert done.returncode == 0, done.stderr
        (asked,) = json.loads((state / "asked.json").read_text())
        assert asked["labels"]["__meta_meshkit_instance"] == left["instance"]
    assert json.loads((state / "targets.json").read_text()) == []
