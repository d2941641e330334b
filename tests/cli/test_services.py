"""`meshkit services`: a table, JSON, and a watch that shows who comes and goes."""

import json
import os
import pty
import signal
from datetime import UTC, datetime

import pytest
from rich.console import Console

from meshkit.cli.output import ExitCode
from meshkit.cli.services import drawn, lines
from meshkit.discovery import Snapshot
from meshkit.instance import Instance, State

BOOT = 1_700_000_000.0


def instance(name: str, **facts: object) -> Instance:
    return Instance(service="greeter", instance_id=name, address="127.0.0.1:5", started_at=BOOT, **facts)  # type: ignore[arg-type]


def snapshot(*instances: Instance, stale_since: float | None = None) -> Snapshot:
    return Snapshot("greeter", {each.instance_id: each for each in instances}, stale_since)


def text_of(*snapshots: Snapshot) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(drawn({each.service: each for each in snapshots}))
    return captured.get()


def test_instances_are_shown_as_a_table(greeting) -> None:
    done = greeting("services")
    assert done.code == 0
    heading, _, row = done.out.splitlines()
    assert heading.split() == ["service", "instance", "address", "state", "zone", "version", "up", "since"]
    service, name, address, state, zone, version, *_ = row.split()
    assert (service, state, zone, version) == ("greeter", "serving", "eu-1", "1.2.3")
    assert name.startswith("greeter-")
    assert address.startswith("127.0.0.1:")


def test_instances_are_shown_as_json(greeting) -> None:
    done = greeting("services", "greeter", "--json")
    (service,) = json.loads(done.out)["services"]
    assert service["stale_since"] is None
    (found,) = service["instances"]
    assert found["state"] == "serving"
    assert found["contracts"] == ["greeter.v1.GreeterService"]
    assert datetime.fromisoformat(found["up_since"]) <= datetime.now(UTC)


def test_a_service_that_is_not_there_is_a_failure(greeting) -> None:
    done = greeting("services", "greter")
    assert done.code == ExitCode.FAILED
    assert "did you mean greeter?\n  it knows greeter\n" in done.err
    assert greeting("services", "Greeter").code == ExitCode.USAGE


def test_nothing_at_all_is_said_so(shell) -> None:
    done = shell("services")
    assert (done.code, done.out) == (0, "")
    assert "no services in file://" in done.err


def test_a_watch_prints_each_change_and_ends_with_0(shell) -> None:
    with shell.started("services", "greeter", "--watch") as watch:
        assert watch.stdout.readline().endswith("greeter: 0 instances\n")
        with shell.serving("hello:Hello", CU_DRAIN_PROPAGATION_S="0"):
            assert watch.stdout.readline().endswith("greeter: 1 instance\n")
            assert "serving" in watch.stdout.readline()
        while not watch.stdout.readline().endswith("greeter: 0 instances\n"):
            pass  # it may be seen draining in between
        watch.send_signal(signal.SIGINT)
        _, err = watch.communicate(timeout=60)
        assert (watch.returncode, err) == (0, "")


def test_a_watch_finds_services_that_are_new(shell) -> None:
    with shell.started("services", "--watch", "--json") as watch:
        assert json.loads(watch.stdout.readline())["services"] == []
        with shell.serving("hello:Waiter", CU_DRAIN_PROPAGATION_S="0"):
            (found,) = json.loads(watch.stdout.readline())["services"]
            assert found["service"] == "waiter"


def test_a_watch_draws_on_a_terminal(greeting) -> None:
    ours, theirs = pty.openpty()
    with greeting.started("services", "--watch", stdout=theirs, COLUMNS="80", TERM="xterm") as watch:
        os.close(theirs)
        shown = b""
        while b"eu-1" not in shown:
            shown += os.read(ours, 4096)
        watch.send_signal(signal.SIGINT)
        watch.wait(timeout=60)
        assert watch.returncode == 0
    os.close(ours)
    assert b"127.0.0.1:" in shown


def test_columns_that_say_nothing_are_left_out() -> None:
    assert text_of(snapshot(instance("a"))).split()[:6] == [
        "service",
        "instance",
        "address",
        "state",
        "up",
        "since",
    ]
    assert "weight" in text_of(snapshot(instance("a", weight=2.0), instance("b")))


def test_a_service_without_instances_has_a_row() -> None:
    assert text_of(snapshot()).splitlines()[-1].split() == ["greeter", "none"]


def test_what_may_be_out_of_date_says_since_when() -> None:
    stale = snapshot(instance("a", state=State.DRAINING), stale_since=BOOT)
    assert "draining stale since 20" in text_of(stale)
    assert ", stale since 20" in lines(stale, datetime.now(UTC))[0]


def test_a_narrow_terminal_keeps_ids_and_addresses_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshkit.cli.tables.console", lambda: Console(width=40))
    assert text_of(snapshot(instance("greeter-1", zone="eu-1"))).splitlines()[0].split() == [
        "service",
        "instance",
        "address",
        "state",
    ]
