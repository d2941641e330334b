"""The doctor's look at the registry: whether it can be read, and the records in it that nobody can use."""

from __future__ import annotations

from meshkit.cli.doctor.findings import Case, Finding, fault, good, note, warning
from meshkit.cli.sight import Sight, unused

MEND = "`meshkit registry list` shows it; end or restart who writes it, with the same REDIS_SECRET_KEY"


async def look_at_registry(case: Case) -> list[Finding]:
    """Says who is there, and which records do not open or make no sense."""
    if case.registry is None:
        return [fault(case.silence, "see that it runs, and look at CU_REGISTRY_URL and REDIS_URL")]
    counts = {name: len(found.instances) for name, found in case.snapshots.items()}
    there = ", ".join(f"{count} of {name}" for name, count in sorted(counts.items()) if count)
    found = [good(f"{case.registry}: {there}") if there else note(f"{case.registry} has no instances")]
    seen = Sight(str(case.registry), case.snapshots)
    for name, snapshot in sorted(case.snapshots.items()):
        if snapshot.stale_since is not None:
            found.append(
                fault(f"{name} cannot be read; what is known of it is old", "see that the registry runs")
            )
        found += [fault(line, MEND) for line in unused(seen, name)]
        if not snapshot.instances and any(service.name == name for service in case.services):
            found.append(warning(f"{name} has no instance", "start one"))
    return found
