"""What serves calls has to show of them, and the process that it runs in; whatever keeps the server."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from meshkit.outbound import one
from meshkit.telemetry.figures import Family, durations

if TYPE_CHECKING:
    from meshkit.telemetry.observing import Observer


def of_observer(observer: Observer) -> Iterator[Family]:
    """What is served, and refused."""
    yield durations("rpc.server.call.duration", "How long calls took that were served.", observer.calls)
    refusals = Family(
        "meshkit.refusals", "counter", "{call}", "Calls refused before the service's own code saw them."
    )
    for reason, count in list(observer.refusals.counts.items()):
        refusals.add(count, reason=reason)
    yield refusals
    shed = observer.refusals.shed
    yield one("meshkit.sheds", "counter", "{call}", "Calls refused for want of room.", shed)


def of_this_process() -> Iterator[Family]:
    """The processor time and memory of the process."""
    used = time.process_time()
    yield one("process.cpu.time", "counter", "s", "Processor time of this process.", used)
    with suppress(OSError, ValueError):  # no /proc here
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        memory = pages * os.sysconf("SC_PAGE_SIZE")
        yield one("process.memory.usage", "gauge", "By", "Memory of this process that is in use.", memory)
