"""Prometheus beside the mesh of the compose file, as the overlay has it: it finds all replicas, and fires.

Grafana is not started: there is no image of it to be had here. `tests/telemetry/test_dashboards.py` tries its queries.
"""

from __future__ import annotations

import subprocess
import urllib.request
from collections.abc import Iterator

import pytest

from tests.deploy.calls import outcome
from tests.deploy.deployment import Deployment, until
from tests.prometheus import Prometheus
from tests.telemetry.test_page import free_port

pytestmark = pytest.mark.deploy

FILES = ("docker-compose.yml", "docker-compose.override.yml", "infrastructure/observability/compose.yml")
SERVICES = ("brain", "router", "worker", "zero")
SCRAPED_S = 180.0
"""Seconds within which all have started and are scraped: each ten it looks who is there, and asks them."""

FIRES_S = 240.0
"""Seconds within which an alert fires that has to hold for one minute."""


class Observed(Deployment):
    """The deployment with the overlay.

    Args:
        checkout: What to run.
    """

    def __init__(self, checkout: Deployment) -> None:
        super().__init__(checkout.engine, checkout.folder)
        self.port = free_port()
        self.prometheus = Prometheus(f"http://127.0.0.1:{self.port}")

    def run(self, *words: str, timeout: float = 300, **settings: str) -> subprocess.CompletedProcess[str]:
        """Runs a program in the copy; both of its streams are in `stdout`."""
        added = {"COMPOSE_FILE": ":".join(FILES), "MESH_PROMETHEUS_PORT": str(self.port)}
        return super().run(*words, timeout=timeout, **added, **settings)

    def pages(self) -> set[str]:
        """Where the replicas that run have their pages."""
        running = (each for service in SERVICES for each in self.containers(service) if each.pid)
        return {f"{each.address}:9464" for each in running}


@pytest.fixture(scope="module")
def mesh(checkout: Deployment) -> Iterator[Observed]:
    observed = Observed(checkout)
    observed.write_env()
    try:
        observed.compose("up", "--detach", "--no-build", "--scale", "brain=2", *SERVICES, "prometheus")
        yield observed
    finally:
        observed.down()


def scraped(mesh: Observed, *, replicas: int) -> None:
    """Waits until what runs is what is scraped."""

    def all_of_them() -> bool:
        pages = mesh.pages()
        return len(pages) == replicas and mesh.prometheus.scraped().keys() == pages

    seconds = until(all_of_them, f"{replicas} replicas are scraped", SCRAPED_S)
    print(f"\n{replicas} replicas are scraped after {seconds:.1f} s")


def test_all_replicas_are_scraped_and_their_number_is_followed(mesh: Observed) -> None:
    scraped(mesh, replicas=5)
    asked = 'count by (service) (meshkit_state{state="serving"} == 1)'
    expected = {"brain": "2", "router": "1", "worker": "1", "zero": "1"}

    def all_serve() -> bool:
        found = mesh.prometheus.series(asked)
        return {each["metric"]["service"]: each["value"][1] for each in found} == expected

    until(all_serve, "all serve", SCRAPED_S)
    mesh.scale(brain=3)
    scraped(mesh, replicas=6)
    mesh.scale(brain=2)
    scraped(mesh, replicas=5)


def test_the_page_is_there_for_whoever_is_let_into_the_network(mesh: Observed) -> None:
    (router,) = mesh.containers("router")
    with urllib.request.urlopen(f"http://{router.address}:9464/metrics", timeout=10) as answer:
        assert 'meshkit_state{service="router",state="serving"} 1\n' in answer.read().decode()
    with urllib.request.urlopen(f"{mesh.prometheus.url}/-/ready", timeout=10) as answer:
        assert answer.status == 200
    for service in SERVICES:
        ports = mesh.engine.docker("port", mesh.containers(service)[0].name)
        assert "9464" not in ports, "nobody else is"


def test_alerts_fire_and_end(mesh: Observed) -> None:
    until(lambda: outcome(mesh) == "STEP_OUTCOME_OK", "the router reaches the others")
    assert mesh.prometheus.firing() == set()
    brain = mesh.containers("brain")[0]
    mesh.engine.docker("pause", brain.name)
    mesh.compose("stop", "zero")
    wanted = {"MeshkitInstanceDown", "MeshkitNoEndpoint"}
    seconds = until(lambda: wanted <= mesh.prometheus.firing(), f"{wanted} fire", FIRES_S)
    print(f"\na brain that hangs and a zero that is gone are told after {seconds:.0f} s")
    told = {
        (each["labels"]["alertname"], each["labels"].get("target") or each["labels"].get("instance"))
        for each in mesh.prometheus.ask("alerts")["alerts"]
        if each["state"] == "firing"
    }
    assert {("MeshkitInstanceDown", f"{brain.address}:9464"), ("MeshkitNoEndpoint", "zero")} <= told
    mesh.engine.docker("unpause", brain.name)
    mesh.compose("start", "zero")
    until(lambda: not wanted & mesh.prometheus.firing(), "they end", SCRAPED_S)
