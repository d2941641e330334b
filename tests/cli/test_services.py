"""`meshkit services`: a table, JSON, and a watch that shows who comes and goes."""

import json
import os
import pty
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest
from redis.asyncio import Redis
from rich.console import Console

from meshkit.cli.finding import leases_of
from meshkit.cli.output import ExitCode
from meshkit.cli.sight import Sight, as_object, doubt, drawn, lines
from meshkit.discovery import Snapshot
from meshkit.discovery.static import StaticRegistry
from meshkit.instance import Instance, State
from meshkit.redis.server import LocalServer

BOOT = 1_700_000_000.0


def instance(name: str, **facts: object) -> Instance:
    return Instance(service="greeter", instance_id=name, address="127.0.0.1:5", started_at=BOOT, **facts)  # type: ignore[arg-type]


def snapshot(*instances: Instance, stale_since: float | None = None) -> Snapshot:
    return Snapshot("greeter", {each.instance_id: each for each in instances}, stale_since)


def seen(*snapshots: Snapshot, at: float = BOOT, **leases: float) -> Sight:
    found = {"greeter": leases} if leases else {}
    return Sight("file:///r", {each.service: each for each in snapshots}, found, at)


def text_of(*snapshots: Snapshot, width: int = 200, **facts: float) -> str:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(drawn(seen(*snapshots, **facts)))
    return captured.get()


def test_instances_are_shown_as_a_table(greeting) -> None:
    done = greeting("services")
    assert done.code == 0
    heading, _, row = done.out.splitlines()
    titles = ["service", "instance", "address", "state", "lease", "zone", "version", "up", "since"]
    assert heading.split() == titles
    service, name, address, state, left, unit, zone, version, *_ = row.split()
    assert (service, state, zone, version) == ("greeter", "serving", "eu-1", "1.2.3")
    assert 0 < int(left) <= 10
    assert unit == "s"
    assert name.startswith("greeter-")
    assert address.startswith("127.0.0.1:")


def test_instances_are_shown_as_json(greeting) -> None:
    done = greeting("services", "greeter", "--json")
    (service,) = json.loads(done.out)["services"]
    assert service["stale_since"] is None
    (found,) = service["instances"]
    assert found["state"] == "serving"
    assert 0 < found["lease_left_s"] <= 10
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
    with greeting.started("services", "--watch", stdout=theirs, COLUMNS="100", TERM="xterm") as watch:
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
    titles = ["service", "instance", "address", "state", "lease", "up", "since"]
    assert text_of(snapshot(instance("a"))).split()[:7] == titles
    assert "weight" in text_of(snapshot(instance("a", weight=2.0), instance("b")))


def test_a_lease_is_shown_in_seconds_where_the_registry_tells_of_it() -> None:
    shown = text_of(snapshot(instance("a"), instance("b"), instance("c")), a=7.4, b=-3.2)
    rows = [line.split() for line in shown.splitlines()[2:]]
    assert [row[-4:-2] for row in rows[:2]] == [["7", "s"], ["-3", "s"]]
    assert rows[2][-3] == "-"
    found = as_object(seen(snapshot(instance("a"), instance("b")), a=7.4))["services"]
    assert [each["lease_left_s"] for each in found[0]["instances"]] == [7.4, None]  # type: ignore[index]


async def test_a_registry_without_leases_shows_none() -> None:
    registry = StaticRegistry.parse("greeter=127.0.0.1:5")
    assert await leases_of(registry, ["greeter"]) == {}
    await registry.close()


def test_a_service_without_instances_has_a_row() -> None:
    assert text_of(snapshot()).splitlines()[-1].split() == ["greeter", "no", "instance"]
    assert as_object(seen(snapshot()))["services"] == [
        {"service": "greeter", "stale_since": None, "instances": [], "refused": {}}
    ]


def test_records_that_nobody_dials_are_shown_with_the_reason() -> None:
    refused = {f"greeter-{number:02}": "it is not JSON" for number in range(12)} | {
        "g" * 90: "it is cut short"
    }
    unusable = Snapshot("greeter", {"a": instance("a")}, refused=refused)
    for text in (text_of(unusable), "\n".join(lines(seen(unusable), "greeter"))):
        assert "greeter: the record greeter-00 is not used: it is not JSON\n" in text
        assert text.count("is not used") == 10
        assert "greeter: 3 more records are not used" in text
    assert "g" * 61 not in text_of(Snapshot("greeter", {}, refused={"g" * 90: "it is cut short"}))
    shown = as_object(seen(unusable))["services"]
    assert shown[0]["refused"] == refused  # type: ignore[index]


async def test_a_record_in_redis_that_is_not_used_is_shown(shell, tmp_path: Path) -> None:
    async with LocalServer(tmp_path / "redis") as server, Redis.from_url(server.url) as client:
        await client.hset("contextunity:{greeter}:instances", "greeter-x", "garbage")  # type: ignore[misc]
        await client.sadd("contextunity:services", "greeter")  # type: ignore[misc]
        done = shell("services", REDIS_URL=server.url, COLUMNS="200")
        assert done.code == 0
        assert "greeter: the record greeter-x is not used: it is not JSON" in done.out
        found = json.loads(shell("services", "--json", REDIS_URL=server.url).out)["services"]
    assert found[0]["refused"] == {"greeter-x": "it is not JSON"}


def test_what_may_be_out_of_date_says_so_above_it() -> None:
    stale = snapshot(instance("a", state=State.DRAINING), stale_since=BOOT - 12)
    first = "registry file:///r cannot be read since 12 s; what follows is its last known state"
    assert text_of(stale).splitlines()[0] == first
    assert doubt(seen(stale)) == first
    assert ", stale since 20" in lines(seen(stale), "greeter")[0]
    fresh = Snapshot("waiter", {})
    assert "; what follows of greeter is its last known state" in text_of(stale, fresh)
    assert "cannot be read" not in text_of(fresh)


def test_a_line_of_a_watch_says_all_that_is_known() -> None:
    _, line = lines(seen(snapshot(instance("a", zone="eu-1")), a=7.0), "greeter")
    assert line.startswith("  a  127.0.0.1:5  serving  lease 7 s  eu-1  0.0.0  1  ")


def test_a_narrow_terminal_keeps_ids_and_addresses_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshkit.cli.tables.console", lambda: Console(width=40))
    titles = ["service", "instance", "address", "state"]
    assert text_of(snapshot(instance("greeter-1", zone="eu-1"))).splitlines()[0].split() == titles


async def test_a_watch_says_when_the_registry_cannot_be_read(shell, tmp_path: Path) -> None:
    server = LocalServer(tmp_path / "redis")
    await server.start()
    try:
        with (
            shell.serving("hello:Hello", CU_DRAIN_PROPAGATION_S="0", REDIS_URL=server.url),
            shell.started("services", "--watch", REDIS_URL=server.url) as text,
            shell.started("services", "--watch", "--json", REDIS_URL=server.url) as objects,
        ):
            shell.line_with(text.stdout, "serving  lease ")
            first = json.loads(objects.stdout.readline())
            assert first["services"][0]["stale_since"] is None
            assert first["services"][0]["instances"][0]["lease_left_s"] > 0
            await server.kill()
            shell.line_with(text.stdout, "cannot be read since 0 s; what follows is its last known state")
            assert "stale since" in text.stdout.readline()
            lost = json.loads(objects.stdout.readline())
            assert lost["services"][0]["stale_since"] is not None
            assert len(lost["services"][0]["instances"]) == 1
            await server.start()
            assert shell.line_with(text.stdout, "greeter: 1 instance").endswith("1 instance\n")
            for watch in (text, objects):
                watch.send_signal(signal.SIGINT)
                assert watch.wait(timeout=60) == 0
    finally:
        await server.stop()
