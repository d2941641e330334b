"""Gives the parsers of all that comes from outside more than a million inputs: `make fuzz`.

    python tests/fuzz/run.py [--inputs 1000000] [--seconds 900] [--only token]

Each target of `targets.py` runs in a process of its own under Atheris (coverage-guided, libFuzzer), from bytes that are
nearly right. It ends with 1 where something broke or was taken that must not be, and says with which bytes.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def child(name: str, arguments: list[str]) -> None:
    """Fuzzes one target in this process; does not return."""
    import atheris

    with atheris.instrument_imports(include=["meshkit.security", "meshkit.redis.sealing", "jwt"]):
        from tests.fuzz.targets import TARGETS
    for number, seed in enumerate(TARGETS[name].seeds):  # here: a record is sealed anew in each process
        (Path(arguments[-1]) / f"seed-{number}").write_bytes(seed)
    atheris.Setup([name, *arguments], TARGETS[name].run)
    atheris.Fuzz()


def fuzz(name: str, inputs: int, seconds: int, folder: Path) -> tuple[int, bool]:
    """Fuzzes a target; how many inputs it was given, and whether all was well."""
    corpus = folder / name
    corpus.mkdir()
    limits = [
        f"-runs={inputs}",
        f"-max_total_time={seconds}",
        "-max_len=4200",
        "-seed=1",
        "-print_final_stats=1",
    ]
    started = time.monotonic()
    done = subprocess.run(
        [
            sys.executable,
            __file__,
            "--child",
            name,
            *limits,
            f"-artifact_prefix={folder}/{name}-",
            str(corpus),
        ],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        errors="replace",
    )
    told = done.stdout + done.stderr
    counted = re.search(r"number_of_executed_units: (\d+)", told)
    ran = int(counted[1]) if counted else 0
    well = done.returncode == 0 and counted is not None
    say(
        f"{name:<11} {ran:>9,} inputs in {time.monotonic() - started:5.0f} s  {'well' if well else 'NOT WELL'}"
    )
    if not well:
        say(told[-4000:])
        for each in folder.glob(f"{name}-*"):
            if each.is_file():
                say(f"with {each.read_bytes()!r}")
    return ran, well


def say(text: str) -> None:
    """Prints a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    """Fuzzes all targets, or the one that was named."""
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3:])
    from tests.fuzz.targets import TARGETS

    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--inputs", type=int, default=1_000_000, help="inputs of all targets together")
    options.add_argument("--seconds", type=int, default=900, help="seconds of all targets together, at most")
    options.add_argument("--only", choices=sorted(TARGETS))
    given = options.parse_args()
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="meshkit-fuzz-") as folder:
        for name, target in TARGETS.items():
            if given.only in (None, name):
                share = 1.0 if given.only else target.share
                inputs, seconds = int(given.inputs * share) + 1, max(int(given.seconds * share), 1)
                outcomes.append(fuzz(name, inputs, max(seconds, given.seconds // 6), Path(folder)))
    total = sum(ran for ran, _ in outcomes)
    well = all(well for _, well in outcomes)
    say(f"{total:,} inputs, {'nothing broke and nothing forged was taken' if well else 'NOT WELL'}")
    if total < given.inputs:
        say(f"fewer than the {given.inputs:,} that were asked for: give it more --seconds")
    sys.exit(not well or total < given.inputs)


if __name__ == "__main__":
    main()
