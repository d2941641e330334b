"""A real Prometheus, for tests of what it is given to read."""

from __future__ import annotations

import json
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.telemetry.test_page import free_port


@dataclass(frozen=True)
class Prometheus:
    """One that runs.

    Attributes:
        url: Where it is.
    """

    url: str

    def ask(self, path: str, **query: str) -> Any:
        """What its API answers; nothing while it comes up."""
        asked = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with suppress(OSError), urllib.request.urlopen(asked, timeout=5) as answer:
            return json.load(answer)["data"]
        return None

    def series(self, expression: str) -> list[Any]:
        """The series that an expression gives now."""
        answer = self.ask("query", query=expression)
        return [] if answer is None else list(answer["result"])

    def firing(self) -> set[str]:
        """Names of the alerts that fire."""
        answer = self.ask("alerts")
        alerts = [] if answer is None else answer["alerts"]
        return {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"}

    def scraped(self) -> dict[str, Any]:
        """The labels of its targets, by the address of each; nothing unless it scrapes all of them with success."""
        answer = self.ask("targets")
        active = [] if answer is None else answer["activeTargets"]
        if any(each["health"] != "up" for each in active):
            return {}
        return {each["discoveredLabels"]["__address__"]: each["labels"] for each in active}


@contextmanager
def running(folder: Path, scrape: dict[str, Any], rules: Sequence[Path] = ()) -> Iterator[Prometheus]:
    """Runs one for as long as the block lasts.

    Args:
        folder: For its files; empty.
        scrape: What it scrapes each second, as in `scrape_configs`.
        rules: Files of rules, which it evaluates each second.
    """
    folder.mkdir()
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rule) for rule in rules],
        "scrape_configs": [{"job_name": "meshkit", **scrape}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    port = free_port()
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log
        )
    try:
        yield Prometheus(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(30)
