"""Names of settings: a field's name in the environment, and the right name for a misspelt one."""

from __future__ import annotations

from collections.abc import Iterable

_OWN_PREFIXES = ("SERVICE_", "LOG_", "GRPC_", "REDIS_", "OTEL_", "METRICS_")


def shared_name(field: str) -> str:
    """The environment's name for a field of SharedConfig: LOG_LEVEL for `log_level`, CU_ZONE for `zone`."""
    name = field.upper()
    return name if name.startswith(_OWN_PREFIXES) else f"CU_{name}"


def edit_distance(left: str, right: str) -> int:
    """How many characters must be put in, taken out or changed (Levenshtein, 1966)."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def nearest(name: str, known: Iterable[str]) -> tuple[str, int]:
    """The known name that is closest, and its edit distance.

    Of equally close ones the first of the alphabet. Names too long to be a slip are cut.
    """
    return min(
        ((candidate, edit_distance(name[:80], candidate)) for candidate in known), key=lambda x: (x[1], x[0])
    )
