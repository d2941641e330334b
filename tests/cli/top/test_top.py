"""`meshkit top` for real: in a terminal of its own, beside instances that serve, fail, hang and die."""

import asyncio
import json
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from meshkit import Internal, MeshError, NotFound
from meshkit.cli import main
from meshkit.cli.output import ExitCode
from meshkit.redis.server import LocalServer
from meshkit.testing import LocalMesh
from tests.cli.conftest import Done, Shell
from tests.cli.top.emulator import Emulator, emulated
from tests.serving.probe import Probe, ProbeClient, Text

MESHKIT = (sys.executable, "-m", "meshkit")
OTHER_SCREEN, FORMER_SCREEN = b"\x1b[?1049h", b"\x1b[?1049l"


@dataclass
class Beside:
    """A mesh in this process, and the command beside it, which finds its instances by their addresses."""

    local: LocalMesh
    folder: Path
    secret: str

    def addresses(self) -> list[str]:
        return [self.local._running[each].instance.address for each in self.local.instances]  # type: ignore[union-attr]

    def environment(self, scheme: str = "static") -> dict[str, str]:
        addresses = self.addresses()
        places = {"static": f"static://probe={','.join(addresses)}", "dns": f"dns://?probe={addresses[0]}"}
        ours = ("CU_", "GRPC_", "SERVICE_", "REDIS_", "COLUMNS", "NO_COLOR")
        return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | {
            "CU_STATE_DIR": str(self.folder),
            "CU_PROJECT_SECRET": self.secret,
            "CU_REGISTRY_URL": places[scheme],
        }

    @contextmanager
    def top(self, *words: str, columns: int = 80, lines: int = 24, **settings: str) -> Iterator[Emulator]:
        environment = self.environment() | settings
        words = (*MESHKIT, "top", "--every", "0.2", *words)
        with emulated(words, columns=columns, lines=lines, folder=self.folder, settings=environment) as it:
            yield it

    async def run(self, *words: str, scheme: str = "static", **settings: str) -> Done:
        done = await asyncio.to_thread(
            subprocess.run,
            [*MESHKIT, "top", *words],
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=self.environment(scheme) | settings,
            stdin=subprocess.DEVNULL,
            check=False,
            timeout=60,
        )
        return Done(done.returncode, done.stdout, done.stderr)


@asynccontextmanager
async def beside(folder: Path, *, replicas: int = 2) -> AsyncIterator[Beside]:
    """Instances under load: reads that succeed, that find nothing, and that fail; calls that are refused."""
    secret = secrets.token_urlsafe(32)
    local = LocalMesh(Probe, replicas=replicas, settings={"project_secret": secret})

    async def behave(request: Text, call: Any) -> Text:
        if request.value == "nothing":
            raise NotFound("there is none")
        if request.value == "broken":
            raise Internal("it is broken")
        return request

    async with local as mesh:
        for each in local.instances:
            local.service(each).behave["Read"] = behave  # type: ignore[attr-defined]
        client, stranger = mesh.client(ProbeClient), mesh.client(ProbeClient, permissions=["other:*"])

        async def load() -> None:
            while True:
                for value in (*"a" * 12, "nothing", "broken"):  # no more than a gate puts up with
                    with suppress(MeshError):
                        await client.read(Text(value=value), policy="round_robin")
                with suppress(MeshError):
                    await stranger.read(Text(value="x"), policy="round_robin")
                await asyncio.sleep(0.05)

        loading = asyncio.create_task(load())
        try:
            yield Beside(local, folder, secret)
        finally:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)


def rates(lines: list[str]) -> list[float]:
    """Calls a second of those that serve, as far as there are figures."""
    found = (re.search(r" serving +([0-9.]+) ", line) for line in lines)
    return [float(each[1]) for each in found if each]


def restored(terminal: Emulator) -> bool:
    """Whether the terminal is as it was: its modes, its screen, its cursor."""
    return (
        terminal.modes() == terminal.before
        and terminal.raw.count(OTHER_SCREEN) == terminal.raw.count(FORMER_SCREEN) > 0
        and not terminal.screen.cursor.hidden
    )


async def test_what_instances_do_is_seen_and_keys_choose_of_it(tmp_path: Path) -> None:
    def look(it: Emulator, addresses: list[str]) -> None:
        lines = it.until(lambda lines: len(rates(lines)) == 2 and min(rates(lines)) > 0)
        assert lines[0].startswith(" meshkit top  contextunity  static://probe=")
        assert " 2 instances " in lines[1]
        it.until(lambda lines: " err/s (" in lines[1] and " refused/s" in lines[1])
        assert all(any(address in line for line in lines) for address in addresses)
        it.press("e")
        it.until(lambda lines: "sorted by err/s" in lines[2] and "err/s▼" in lines[3])
        it.press("enter")
        it.until(lambda lines: any(line.startswith(" Read ") and "INTERNAL" in line for line in lines))
        it.until(lambda lines: any(line.startswith(" Read ") and "NOT_FOUND" in line for line in lines))
        it.until_shown("refused before", "PERMISSION_MISSING")
        it.press("i")
        it.until_shown("all instances")
        it.press("escape")
        it.until_shown("sorted by err/s")
        it.press("?")
        it.until_shown("sort by the column to the left or right")
        it.press("escape", "/", *addresses[1], "enter")
        it.until_shown(f"only {addresses[1]}  1 of 2")
        it.until(lambda lines: not any(addresses[0] in line for line in lines[4:]))
        it.press("escape")
        it.until_shown(*addresses)
        it.resize(200, 12)
        it.until_shown("refused/s", "retry/s", "lag", " up")
        it.until(lambda lines: len(lines) == 12 and lines[-1].startswith(" q quit"))
        it.press("p")
        it.until_shown("stands still")
        it.press("q")
        assert it.wait() == 0
        assert restored(it)

    async with beside(tmp_path) as there:
        with there.top() as terminal:
            await asyncio.to_thread(look, terminal, there.addresses())


NOBODY = "static://probe=127.0.0.1:1"


def alone(folder: Path, **settings: str) -> dict[str, str]:
    """Settings of a mesh of which nobody answers."""
    return {**os.environ, "CU_STATE_DIR": str(folder), "CU_REGISTRY_URL": NOBODY, **settings}


@pytest.mark.parametrize(
    ("end", "settings"),
    [
        (lambda it: it.press("\x03"), {}),
        (lambda it: it.process.send_signal(signal.SIGTERM), {"NO_COLOR": "1"}),
        (lambda it: it.process.send_signal(signal.SIGHUP), {}),
    ],
    ids=["Ctrl-C", "SIGTERM", "SIGHUP"],
)
def test_the_terminal_is_given_back_however_it_ends(
    tmp_path: Path, end: Callable[[Emulator], object], settings: dict[str, str]
) -> None:
    with emulated((*MESHKIT, "top"), folder=tmp_path, settings=alone(tmp_path, **settings)) as it:
        it.until_shown("silent")
        assert it.modes() != it.before
        assert (b"31m" in it.raw) is ("NO_COLOR" not in settings), "red, for it is silent"
        end(it)
        assert it.wait() == 0
        assert restored(it)
        assert "Traceback" not in "\n".join(it.lines)


def test_it_ends_where_its_terminal_goes_away(tmp_path: Path) -> None:
    with emulated((*MESHKIT, "top"), folder=tmp_path, settings=alone(tmp_path)) as it:
        it.until_shown("silent")
        it.hang_up()
        it.process.wait(60)


def test_a_defect_is_told_on_the_former_screen(tmp_path: Path) -> None:
    defect = "import meshkit.cli.top.live as live, meshkit.cli as cli; live.drawn = None; cli.main(['top'])"
    with emulated(
        (sys.executable, "-c", defect), columns=120, folder=tmp_path, settings=alone(tmp_path)
    ) as it:
        assert it.wait() == 1
        assert restored(it)
        assert "TypeError: 'NoneType' object is not callable" in "\n".join(it.lines)


def test_it_is_suspended_and_goes_on(tmp_path: Path) -> None:
    with emulated((*MESHKIT, "top"), folder=tmp_path, settings=alone(tmp_path)) as it:
        it.until_shown("silent")
        it.press("\x1a")
        it.until(lambda _: os.waitpid(it.process.pid, os.WNOHANG | os.WUNTRACED)[0])
        it.until(lambda _: it.raw.endswith(FORMER_SCREEN))
        assert restored(it)
        it.process.send_signal(signal.SIGCONT)
        it.until(lambda _: it.raw.count(OTHER_SCREEN) == 2)
        it.press("?")
        it.until_shown("Esc back")
        it.press("q")
        assert it.wait() == 0
        assert restored(it)


def test_one_that_hangs_and_one_that_dies_are_seen_and_hold_nobody_up(shell: Shell) -> None:
    words = (*MESHKIT, "top", "--every", "0.2", "--timeout", "0.5")
    with (
        shell.serving("hello:Hello", CU_ZONE="eu-1"),
        shell.serving("hello:Hello", CU_ZONE="eu-2") as victim,
        shell.serving("hello:Waiter", CU_ZONE="eu-3"),
        emulated(words, columns=120, folder=shell.folder, settings=shell.environment) as it,
    ):
        it.until(lambda lines: sum("serving  " in line for line in lines) == 3)
        victim.send_signal(signal.SIGSTOP)
        it.until_shown("no answer within 0.5 s")
        assert sum("serving  " in line for line in it.lines) == 2
        before = len(it.raw)
        it.until(lambda _: len(it.raw) > before + 3000)  # it goes on to be drawn
        victim.send_signal(signal.SIGCONT)
        it.until(lambda lines: sum("serving  " in line for line in lines) == 3)
        victim.kill()
        it.until_shown("left the registry")
        assert sum("serving  " in line for line in it.lines) == 2
        it.press("q")
        assert it.wait() == 0


async def test_one_look_is_printed(tmp_path: Path) -> None:
    async with beside(tmp_path) as there:
        done = await there.run("probe", "--once", "--every", "1", "--sort", "calls")
        assert (done.code, done.err) == (0, "")
        heading, titles, *shown = done.out.splitlines()
        assert heading.startswith("2 instances   ")
        assert "calls/s▼" in titles
        assert len(rates(shown)) == 2
        assert rates(shown) == sorted(rates(shown), reverse=True)
        assert max(rates(shown)) > 0
        assert "\x1b" not in done.out


async def test_each_look_is_a_line_of_json(tmp_path: Path) -> None:
    def read(top: subprocess.Popen[str], addresses: list[str]) -> str:
        """Reads on until each instance was seen to do all that it does."""
        text, codes = "", dict.fromkeys(addresses, frozenset[str]())
        while not all(
            found == {"OK", "NOT_FOUND", "INTERNAL", "PERMISSION_DENIED"} for found in codes.values()
        ):
            line = top.stdout.readline()  # type: ignore[union-attr]
            text += line
            told = json.loads(line)
            assert told["totals"]["instances"] == 2
            for each in told["instances"]:
                found = each["rates"]
                (method,) = [method for method in found["methods"] if method["method"].endswith("/Read")]
                codes[each["instance"]] |= method["codes"].keys()
                assert found["errors"] == method["codes"].get("INTERNAL", 0)
                assert found["refused"] == found["refusals"].get("PERMISSION_MISSING", 0)
                assert found["calls"] == pytest.approx(sum(method["codes"].values()), abs=1e-5)
        return text

    async with beside(tmp_path) as there:
        shell = Shell(tmp_path)
        with shell.started("top", "--json", "--every", "0.5", **there.environment()) as top:
            text = await asyncio.to_thread(read, top, there.addresses())
        assert top.returncode == 0
        assert there.secret not in text


async def test_names_are_found_in_dns_and_who_may_not_ask_is_told(tmp_path: Path) -> None:
    async with beside(tmp_path, replicas=1) as there:
        done = await there.run("--once", "--every", "0.2", scheme="dns")
        assert "serving" in done.out.splitlines()[-1]
        done = await there.run("--once", CU_PROJECT_SECRET=secrets.token_urlsafe(32))
        assert "silent" in done.out
        assert "[KEY_UNKNOWN]" in done.out


async def test_lines_go_on_until_it_is_stopped_or_nobody_reads(tmp_path: Path) -> None:
    async with LocalServer(tmp_path / "redis") as server:
        shell = Shell(tmp_path)
        (tmp_path / "hello.py").write_text("from main import Greeter as Hello\n")
        with (
            shell.serving("hello:Hello", REDIS_URL=server.url, GRPC_PORT="0"),
            shell.started("top", "--json", "--every", "0.2", REDIS_URL=server.url) as top,
        ):
            for _ in range(3):
                told = json.loads(top.stdout.readline())  # type: ignore[union-attr]
                assert [each["state"] for each in told["instances"]] == ["serving"]
                assert told["instances"][0]["lease_age_s"] is not None
            await server.kill()
            while json.loads(top.stdout.readline())["doubt"] is None:  # type: ignore[union-attr]
                pass
            top.send_signal(signal.SIGINT)
            _, err = await asyncio.to_thread(top.communicate, timeout=60)
            assert (top.returncode, "Traceback" in err) == (0, False)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "the output is no terminal: `meshkit top --once` prints one look, `--json` a line"),
        (("--sort", "cals"), 2, "there is no column 'cals'; did you mean calls?\n  there are instance, "),
        (("Brain",), 2, "'Brain' is no name of a service"),
        (("--every", "0", "--once"), 2, "--every"),
        (
            ("greter", "--once"),
            1,
            "no service 'greter' in static://greeter=127.0.0.1:1; did you mean greeter?",
        ),
    ],
)
def test_what_cannot_be_done_is_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    monkeypatch.setenv("CU_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("CU_REGISTRY_URL", "static://greeter=127.0.0.1:1")
    with pytest.raises(SystemExit) as ended:
        main(["top", *words])
    assert ended.value.code == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"stdin": subprocess.DEVNULL}, "keys are read from the input"),
        ({"term": "dumb"}, "(TERM) cannot be drawn on"),
    ],
)
def test_a_terminal_that_is_none_is_said(tmp_path: Path, facts: dict[str, Any], message: str) -> None:
    with emulated((*MESHKIT, "top"), folder=tmp_path, settings=dict(os.environ), **facts) as it:
        assert it.wait() == ExitCode.USAGE
        assert message in " ".join(it.lines)
        assert OTHER_SCREEN not in it.raw
