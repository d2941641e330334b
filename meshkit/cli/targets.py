"""Where the pages of metrics are, as a file from which Prometheus takes what to scrape (`file_sd_configs`)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from meshkit.cli.finding import by_age
from meshkit.cli.output import Failure, note

if TYPE_CHECKING:
    from meshkit.discovery import Snapshot

NAME = "targets.json"
"""Name of the file in the state folder of a mesh that is up."""


class Pages:
    """Keeps the file. Prometheus reads it again whenever it is replaced.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._written = ""

    def write(self, snapshots: Iterable[Snapshot]) -> None:
        """Replaces the file, at once and whole, where it would be another.

        Raises:
            Failure: It cannot be written.
        """
        text = json.dumps(targets(snapshots), indent=2) + "\n"
        if text == self._written:
            return
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            temporary.write_text(text, "utf-8")
            temporary.replace(self.path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise Failure(f"{self.path} cannot be written: {error.strerror}") from None
        self._written = text

    def told(self, snapshots: Iterable[Snapshot]) -> None:
        """As `write`, for a mesh that is to go on where the file cannot be written: there is a line about it."""
        try:
            self.write(snapshots)
        except Failure as error:
            note(str(error))


def targets(snapshots: Iterable[Snapshot]) -> list[Mapping[str, object]]:
    """The pages of all instances that have one, each once: services that share a process have one page.

    The labels are Prometheus's to relabel with; it drops them afterwards.
    """
    found: dict[str, dict[str, str]] = {}
    for snapshot in sorted(snapshots, key=lambda each: each.service):
        for instance in by_age(snapshot):
            if not instance.metrics:
                continue
            labels = found.setdefault(instance.metrics, {})
            for name, value in (("service", instance.service), ("instance", instance.instance_id)):
                label = f"__meta_meshkit_{name}"
                labels[label] = f"{labels[label]},{value}" if label in labels else value
            labels["__meta_meshkit_zone"] = instance.zone
    return [{"targets": [address], "labels": labels} for address, labels in found.items()]
