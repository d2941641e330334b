"""What benchmarks print, read back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def quick(script: str, *options: str, path: str | None = None) -> str:
    """What a quick run prints; it must not fail.

    Args:
        script: Name of the file.
        options: Further options.
        path: Where programs are looked for; as for this process by default.
    """
    command = [sys.executable, str(BENCHMARKS / script), "--quick", *options]
    environment = dict(os.environ) if path is None else {**os.environ, "PATH": path}
    finished = subprocess.run(
        command, capture_output=True, text=True, timeout=280, check=False, env=environment
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def tables(output: str) -> list[list[dict[str, str]]]:
    """All tables, each row by the heads of its columns."""
    found: list[list[dict[str, str]]] = []
    heads: list[str] = []
    for line in output.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            heads = []
        elif not heads:
            heads = cells
            found.append([])
        elif any(set(cell) - {"-"} for cell in cells):
            found[-1].append(dict(zip(heads, cells, strict=True)))
    return found
