"""`meshkit scale`: a mesh that runs gets more replicas, or fewer, and says so."""

import asyncio
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from greeter.v1 import greeter_pb2 as pb
from greeter.v1.greeter_client import GreeterClient

from meshkit import Mesh
from meshkit.cli.counts import counts_of
from meshkit.cli.output import Failure
from meshkit.config import SharedConfig
from tests.cli.running import GREETER, Up, environment_of, meshkit, until, up


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Up]:
    """One greeter."""
    with up(tmp_path / "state", "main:Greeter") as running:
        running.until("serving: greeter 1/1")
        yield running


def test_replicas_come_and_the_last_ones_leave(mesh: Up) -> None:
    assert meshkit(mesh.state, "scale", "greeter=3").stdout == "greeter: 1 → 3\n"
    assert mesh.shard_keys() == ["greeter-1", "greeter-2", "greeter-3"]
    assert meshkit(mesh.state, "scale", "greeter=2").stdout == "greeter: 3 → 2\n"
    assert mesh.shard_keys() == ["greeter-1", "greeter-2"]
    assert sorted(mesh.replicas().values()) == ["greeter-1.log", "greeter-2.log"]
    assert "stopped" in (mesh.state / "logs" / "greeter-3.log").read_text()
    done = meshkit(mesh.state, "scale", "greeter=0", "--json")
    assert json.loads(done.stdout) == {
        "services": [{"service": "greeter", "before": 2, "after": 0}],
        "settled": True,
    }
    assert mesh.replicas() == {}
    mesh.until("serving: greeter 0/0")


async def test_no_call_fails_while_replicas_come_and_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    with up(state, "--redis", "main:Greeter", "greeter=3", CU_DRAIN_PROPAGATION_S="1") as running:
        running.until("serving: greeter 3/3")
        settings = {"CU_STATE_DIR": str(state), "REDIS_URL": (state / "redis" / "url").read_text().strip()}
        async with Mesh(SharedConfig.load(settings)) as calling:
            client, going, answered = calling.client(GreeterClient), True, Counter[str]()

            async def call() -> None:
                while going:
                    trailers: dict[str, str] = {}
                    await client.greet(pb.GreetRequest(name="Ada"), trailers=trailers, timeout=30)
                    answered[trailers["x-cu-instance"]] += 1
                    await asyncio.sleep(0.005)  # leaves the processor to those who are to be scaled

            callers = [asyncio.create_task(call()) for _ in range(4)]
            for count in (1, 2):
                done = await asyncio.to_thread(meshkit, state, "scale", f"greeter={count}")
                assert done.returncode == 0, done.stderr
                answered.clear()
                async with asyncio.timeout(60):
                    while len(answered) < count:
                        await asyncio.sleep(0.01)
                assert not any(each.done() for each in callers), "a call failed"
            going = False
            await asyncio.gather(*callers)
            assert set(answered) == set(calling.pool("greeter").endpoints)


def test_without_waiting_it_says_what_is_under_way(mesh: Up) -> None:
    assert meshkit(mesh.state, "scale", "greeter=2", "--no-wait").stdout == "greeter: 1 → 2 (under way)\n"
    mesh.until("serving: greeter 2/2")


def test_two_at_once_take_turns(mesh: Up) -> None:
    with ThreadPoolExecutor() as both:
        outcomes = list(both.map(lambda count: meshkit(mesh.state, "scale", f"greeter={count}"), (3, 2)))
    assert sorted(done.stdout for done in outcomes) in (
        ["greeter: 1 → 3\n", "greeter: 3 → 2\n"],
        ["greeter: 1 → 2\n", "greeter: 2 → 3\n"],
    )


def test_what_cannot_be_is_refused_and_changes_nothing(mesh: Up) -> None:
    for words, message in (
        (("greter=2",), "this mesh has no service 'greter'; did you mean greeter?\n  it has greeter"),
        (("greeter=-1",), "give NAME=COUNT with a number from 0 to 256"),
        (("greeter=257",), "give NAME=COUNT with a number from 0 to 256"),
        (("greeter",), "give NAME=COUNT"),
        (("greeter=2", "greter=2"), "did you mean greeter?"),
    ):
        done = meshkit(mesh.state, "scale", *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr
    assert len(mesh.replicas()) == 1


def test_a_mesh_that_is_up_restarts_its_replicas(mesh: Up) -> None:
    before = mesh.replicas()
    done = meshkit(mesh.state, "restart")
    assert (done.returncode, done.stdout) == (0, "greeter: 1 replaced\n"), done.stderr
    after = mesh.replicas()
    assert (len(after), set(before) & set(after)) == (1, set())
    assert mesh.shard_keys() == ["greeter-1"]
    wrong = meshkit(mesh.state, "restart", "greter")
    assert (wrong.returncode, "did you mean greeter?" in wrong.stderr) == (2, True)


def test_replicas_that_take_longer_are_named_with_the_time_that_was_waited(tmp_path: Path) -> None:
    with up(tmp_path / "state", "main:Greeter", CU_DRAIN_PROPAGATION_S="60") as mesh:
        mesh.until("serving: greeter 1/1")
        done = meshkit(mesh.state, "scale", "greeter=0", "--timeout", "0.5")
        assert (done.returncode, done.stdout) == (1, "")
        log = mesh.state / "logs" / "greeter-1.log"
        assert done.stderr == (
            "meshkit: greeter: 1 → 0, but after 0.5 s greeter-1 has not ended; it goes on\n"
            f"  its log: {log}\n"
        )
        assert meshkit(mesh.state, "scale", "greeter=1").stdout == "greeter: 0 → 1\n"
        assert sorted(mesh.replicas().values()) == ["greeter-1.log", "greeter-2.log"]
        mesh.process.send_signal(signal.SIGINT)
        mesh.until("draining")
        refused = meshkit(mesh.state, "scale", "greeter=2")
        assert refused.returncode == 1
        assert f"the mesh on {mesh.state} is starting or draining" in refused.stderr
        assert mesh.end() == 0  # a second signal cuts the drain short


def test_ctrl_c_ends_the_waiting_and_not_the_scaling(mesh: Up) -> None:
    (only,) = mesh.replicas()
    process = subprocess.Popen(
        [sys.executable, "-m", "meshkit", "scale", "greeter=4"],
        cwd=GREETER,
        env=environment_of(mesh.state),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: len(mesh.replicas()) > 1)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 130
    mesh.until("serving: greeter 4/4")
    assert only in mesh.replicas()


def test_without_a_mesh_it_says_what_to_type(tmp_path: Path) -> None:
    done = meshkit(tmp_path, "scale", "greeter=2")
    assert done.returncode == 1
    assert f"no mesh is up on {tmp_path}\n  start one with `meshkit up`" in done.stderr


def test_a_mesh_that_was_killed_is_not_up(mesh: Up) -> None:
    mesh.process.kill()
    mesh.process.wait()
    assert (mesh.state / "up.sock").exists()
    assert "no mesh is up" in meshkit(mesh.state, "scale", "greeter=2").stderr


@pytest.mark.parametrize("words", [["brain"], ["=3"], ["brain="], ["brain=3,"], ["brain=٣"], ["brain=1e3"]])
def test_words_that_are_no_counts_are_refused(words: list[str]) -> None:
    with pytest.raises(Failure, match="give NAME=COUNT"):
        counts_of(words)


def test_counts_may_be_words_or_parts_of_one() -> None:
    assert counts_of(["brain=3,worker=0", "zero=256"]) == {"brain": 3, "worker": 0, "zero": 256}
