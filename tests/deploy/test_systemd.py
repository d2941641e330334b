"""The unit under a systemd that is the first process: started, misconfigured, hung, reloaded, killed, drained."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from meshkit import Mesh, SharedConfig, Unavailable
from tests.deploy.deployment import NEEDED, copy_checkout, until
from tests.deploy.machine import ENVIRONMENT, Machine
from tests.deploy.patient import BEGUN, CLOSED
from tests.deploy.test_page import SYSTEMD, follow
from tests.deploy.unit import SECRET, STATE, Unit, calling
from tests.docs.pages import ROOT, Block, read
from tests.docs.terminal import Terminal
from tests.resilience.ports import free_ports
from tests.serving.probe import ProbeClient, Text

pytestmark = pytest.mark.deploy

BLOCKS = read(SYSTEMD).blocks
CHECKOUT = (*NEEDED, "examples/greeter")
INSTALL_S = 600.0
WATCHDOG = "[Service]\nWatchdogSec=5\n"
LESS_EXPOSED_THAN = 3.0
PRIORITIES = {"critical": "2", "error": "3", "warning": "4", "info": "6", "debug": "7"}


def install(machine: Machine, blocks: Sequence[Block]) -> None:
    """Does what the page says, and puts the service of these tests beside the page's."""
    folder = machine.shared / "checkout"
    copy_checkout(folder, CHECKOUT)
    shell = (*machine.inside, "env", f"--chdir={folder}", "bash", "--norc", "--noprofile")
    with Terminal(folder, machine.shared, shell, INSTALL_S, **ENVIRONMENT) as terminal:
        follow(blocks, folder, terminal)
    there = machine.root / "opt" / "greeter" / "tests"
    for name in ("serving/probe.py", "deploy/patient.py", "deploy/load.py"):
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_text((ROOT / "tests" / name).read_text())


@pytest.fixture(scope="module")
def installed(machine: Machine) -> Iterator[Machine]:
    """The machine after all that the page says; the page's service is stopped."""
    install(machine, BLOCKS)
    yield machine
    every = machine.do("journalctl", "--output=json", "--all")
    assert (machine.root / SECRET).read_text().strip().rpartition(":")[2] not in every


@pytest.fixture(scope="module")
def alone(installed: Machine) -> Unit:
    """A service in one process."""
    return Unit(installed, "alone", free_ports(1)[0], WATCHDOG)


@pytest.fixture(scope="module")
def many(installed: Machine) -> Unit:
    """A service in four processes."""
    return Unit(installed, "many", free_ports(1)[0], WATCHDOG, "--processes 4")


@pytest.fixture
def one(alone: Unit) -> Unit:
    alone.start()
    return alone


@pytest.fixture
def four(many: Unit) -> Unit:
    many.start()
    many.until(StatusText="4 of 4 ready")
    return many


@asynccontextmanager
async def client_of(unit: Unit) -> AsyncIterator[ProbeClient]:
    config = SharedConfig(
        registry_url=f"static://probe=127.0.0.1:{unit.port}",
        project_secret=(unit.machine.root / SECRET).read_text().strip(),
    )
    async with Mesh(config) as mesh:
        yield mesh.client(ProbeClient)


async def answer(unit: Unit) -> str:
    """Who answers a call."""
    async with client_of(unit) as client:
        return str((await client.write(Text(value="now"), timeout=20)).value)


def test_the_page_does_what_it_says(installed: Machine) -> None:
    """All of it was done to set these tests up."""


def test_the_unit_is_right_and_exposes_little(installed: Machine) -> None:
    assert installed.do("systemd-analyze", "verify", "meshkit@greeter.service") == ""
    told = installed.do("systemd-analyze", "security", "--no-pager", "meshkit@greeter.service")
    (exposure,) = re.findall(r"exposure level for .*: ([\d.]+)", told)
    print(f"\nexposure: {exposure}")
    assert float(exposure) < LESS_EXPOSED_THAN


def test_it_is_active_only_once_it_serves(alone: Unit) -> None:
    alone.ctl("stop")
    closed = alone.machine.root / STATE / CLOSED
    closed.touch()
    alone.ctl("start", "--no-block")
    alone.until(ActiveState="activating", StatusText="starting")
    closed.unlink()
    alone.until(ActiveState="active", StatusText="serving")
    assert alone.show("NRestarts") == "0"


def test_a_wrong_configuration_ends_it_with_78_for_good_and_the_journal_says_why(alone: Unit) -> None:
    alone.ctl("stop")
    alone.configure("CU_MAX_CALLS = 0")
    assert alone.ctl("start").returncode != 0
    state = {name: alone.show(name) for name in ("ActiveState", "ExecMainStatus", "NRestarts")}
    assert state == {"ActiveState": "failed", "ExecMainStatus": "78", "NRestarts": "0"}
    (line,) = alone.said("CU_MAX_CALLS: '0' is out of range")
    assert line["PRIORITY"] == PRIORITIES["error"]
    alone.configure()
    alone.start()


async def test_a_process_that_is_stopped_is_restarted_by_the_watchdog(one: Unit) -> None:
    before = await answer(one)
    with one.restarted("serving"):
        one.kill("STOP")
    assert one.said("Watchdog timeout")
    assert await answer(one) != before


async def test_an_event_loop_that_is_blocked_says_where_and_is_restarted(one: Unit) -> None:
    with one.restarted("serving"):
        async with client_of(one) as client:
            with pytest.raises(Unavailable):
                await client.write(Text(value="block 600"), timeout=60)
    assert one.said("in obey"), one.log()
    assert await answer(one)


async def test_a_process_that_is_killed_comes_back(one: Unit) -> None:
    before = await answer(one)
    with one.restarted("serving"):
        one.kill("KILL")
    assert await answer(one) != before


def test_a_reload_takes_what_is_right_and_refuses_what_is_not(one: Unit) -> None:
    one.reload('LOG_LEVEL = "DEBUG"\nCU_MAX_CALLS = 7')
    one.says('"LOG_LEVEL": "INFO -> DEBUG"')
    one.reload('LOG_LEVEL = "ERROR"\nCU_MAX_CALLS = 0')
    one.until(ActiveState="active", StatusText="serving; its new settings are refused, as the log says")
    (line, *_) = one.said("CU_MAX_CALLS: '0' is out of range")
    assert line["PRIORITY"] == PRIORITIES["error"]
    one.reload('LOG_LEVEL = "DEBUG"\nCU_MAX_CALLS = 7')
    one.until(ActiveState="active", StatusText="serving")
    one.says("settings read again, nothing changed")
    one.configure()


async def test_a_stop_drains_calls_under_way(one: Unit) -> None:
    begun: Path = one.machine.root / STATE / BEGUN
    begun.unlink(missing_ok=True)
    async with client_of(one) as client:
        call = asyncio.ensure_future(client.write(Text(value="sleep 3"), timeout=30))
        await asyncio.to_thread(until, begun.exists, "the call is under way")
        await asyncio.to_thread(one.ctl, "stop")
        assert (await call).value
    assert (one.show("Result"), one.show("ExecMainStatus"), one.show("ActiveState")) == (
        "success",
        "0",
        "inactive",
    )


async def test_the_secret_is_a_credential_and_nowhere_else(one: Unit) -> None:
    secret = (one.machine.root / SECRET).read_text().strip().rpartition(":")[2]
    assert await answer(one), "it takes calls that are signed with it"
    pid = one.show("MainPID")
    environment = one.machine.do("cat", f"/proc/{pid}/environ") + one.machine.do(
        "cat", f"/proc/{pid}/cmdline"
    )
    assert "CREDENTIALS_DIRECTORY=/run/credentials/" in environment
    told = one.machine.do("systemctl", "show", one.name) + one.machine.do("systemctl", "status", one.name)
    assert secret not in environment + told
    refused = one.machine.run(
        *("runuser", "-u", "nobody", "--", "cat", f"/run/credentials/{one.name}/CU_PROJECT_SECRET")
    )
    assert "Permission denied" in refused.stdout


def test_lines_are_json_objects_and_the_journal_knows_how_grave_they_are(one: Unit) -> None:
    one.reload('CU_ZONE = "b"')
    one.says("need a restart")
    lines = [line for line in one.log() if line["SYSLOG_IDENTIFIER"] == "alone"]
    assert {line["PRIORITY"] for line in lines} >= {PRIORITIES["warning"]}
    for line in lines:
        assert line["PRIORITY"] == PRIORITIES[json.loads(line["MESSAGE"])["level"]]
    one.configure()


def test_a_reload_reaches_all_processes(four: Unit) -> None:
    for said in ("settings changed", "settings read again, nothing changed"):
        four.reload("CU_MAX_CALLS = 7")
        four.says(said, 4)
        assert {line["_PID"] for line in four.said(said)} == set(four.children())
    four.until(ActiveState="active", StatusText="4 of 4 ready")
    four.configure()


@pytest.mark.parametrize("number", ["KILL", "STOP"])
def test_a_process_of_several_that_dies_or_hangs_is_replaced_and_the_unit_stays_as_it_is(
    four: Unit, number: str
) -> None:
    main, restarts, before = four.show("MainPID"), four.show("NRestarts"), set(four.children())
    four.kill(number, sorted(before)[0])
    four.says('"died"')
    four.until(StatusText="4 of 4 ready")
    assert len(before & set(four.children())) == 3
    assert (four.show("MainPID"), four.show("NRestarts")) == (main, restarts)


def test_several_processes_come_back_when_the_first_one_is_killed(four: Unit) -> None:
    before = set(four.children())
    with four.restarted("4 of 4 ready"):
        four.kill("KILL")
    assert not before & set(four.children())


@pytest.mark.parametrize("how", ["meshkit restart", "systemctl restart"])
def test_no_call_fails_while_all_processes_are_replaced(four: Unit, how: str) -> None:
    before = set(four.children())
    with calling(four.machine, 50) as outcomes:
        if how == "meshkit restart":
            words = ("env", f"CU_STATE_DIR=/{STATE}", "/opt/many/bin/meshkit", "restart", "probe")
            assert "probe: 4 replaced" in four.machine.do("runuser", "-u", "meshkit", "--", *words)
        else:
            assert four.ctl("restart").returncode == 0
    print(f"\n{how}: {dict(outcomes)}")
    assert set(outcomes) == {"OK"}
    assert outcomes["OK"] > 50
    assert not before & set(four.children())


def test_a_newer_systemd_waits_until_all_processes_have_read_their_settings(newer: Machine) -> None:
    (edit,) = (block.text for block in BLOCKS if "Type=notify-reload" in block.text)
    begin = next(place for place, block in enumerate(BLOCKS) if "enable --now" in block.text)
    install(newer, BLOCKS[:begin])
    unit = Unit(newer, "newer", free_ports(1)[0], edit, "--processes 2")
    unit.start()
    for limit in (7, 8, 9):
        unit.reload(f"CU_MAX_CALLS = {limit}")
        assert (unit.show("ActiveState"), unit.show("StatusText")) == ("active", "2 of 2 ready")
        unit.says(f"-> {limit}", 2)
        unit.reload("CU_MAX_CALLS = 0")
        assert unit.show("StatusText") == "2 of 2 ready; its new settings are refused, as the log says"
    assert unit.ctl("stop").returncode == 0
