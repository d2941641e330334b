"""`meshkit run`: from `module:Class` to a process that serves, and its exit codes."""

import json
import signal
from pathlib import Path

import pytest

from meshkit.cli.loading import load_service
from meshkit.cli.output import ExitCode, Failure


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_it_is_signalled_and_drains(shell, number: signal.Signals) -> None:
    with shell.serving("hello:Hello", CU_DRAIN_PROPAGATION_S="0") as process:
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "stopped" in err


def test_several_services_share_a_process_and_have_a_port_each(shell) -> None:
    with shell.serving("hello:Hello", "hello:Waiter", CU_DRAIN_PROPAGATION_S="0"):
        found = json.loads(shell("services", "--json").out)["services"]
    assert [each["service"] for each in found] == ["greeter", "waiter"]
    assert len({each["instances"][0]["address"] for each in found}) == 2


def test_a_wrong_configuration_is_78(shell) -> None:
    done = shell("run", "hello:Hello", GRPC_PORT="many")
    assert done.code == ExitCode.CONFIG
    assert "GRPC_PORT" in done.err
    assert "Traceback" not in done.err


def test_a_port_that_is_taken_is_1(shell) -> None:
    with shell.serving("hello:Hello", CU_DRAIN_PROPAGATION_S="0"):
        address = json.loads(shell("services", "--json").out)["services"][0]["instances"][0]["address"]
        done = shell("run", "hello:Waiter", GRPC_PORT=address.rpartition(":")[2])
        left = json.loads(shell("services", "--json").out)["services"]
    assert done.code == ExitCode.FAILED
    # gRPC's own core may complain of the address as well: only ours says what to do
    (said,) = [line for line in done.err.splitlines() if line.startswith(f"{address} ")]
    assert said.startswith(f"{address} is in use, or not ours to take: set GRPC_PORT to another port")
    assert "Traceback" not in done.err
    assert [each["service"] for each in left] == ["greeter"], "who got no port did not register"


def test_the_same_service_twice_is_refused(shell) -> None:
    done = shell("run", "hello:Hello", "hello:Hello")
    assert done.code == ExitCode.USAGE
    assert (
        done.err
        == "meshkit: greeter is there twice: give each service another name, by the class keyword name=…\n"
    )


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("main", "'main' is not module:Class"),
        (":Greeter", "':Greeter' is not module:Class"),
        ("main.py:Greeter", "write module:Class, such as main:Greeter"),
        ("./examples/main.py:Greeter", "such as examples.main:Greeter"),
        ("no_such_module:Greeter", "there is no module no_such_module"),
        ("main.deeper:Greeter", "there is no module main.deeper"),
        ("main:Greter", "the module main has no Greter; did you mean Greeter?"),
        ("main:pb", "main:pb is not a CUService class; services there: Greeter"),
        ("main:Call", "main:Call is not a CUService class; services there: Greeter"),
        ("main:CUService", "main:CUService has no contract"),
        ("needy:Greeter", "needy imports no_such_package, which is not installed"),
        ("unbound:Greeter", "no such RPC as 'great'; did you mean greet?"),
        ("misspelt:Greeter", "the class takes no prt (did you mean port?)"),
        ("unannotated:Greeter", "no subclass of meshkit.SharedConfig"),
    ],
)
def test_a_target_that_cannot_be_run_is_explained(
    target: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "needy.py").write_text("import no_such_package\n")
    head = "from meshkit import CUService, rpc\nfrom main import Greeter as Base, pb\n"
    contract = 'contract=pb.DESCRIPTOR.services_by_name["GreeterService"]'
    (tmp_path / "unbound.py").write_text(
        f'{head}class Greeter(Base, {contract}):\n    @rpc(permission="a:b")\n    async def great(self, r, c): ...\n'
    )
    (tmp_path / "misspelt.py").write_text(f"{head}class Greeter(Base, {contract}, prt=5): ...\n")
    (tmp_path / "unannotated.py").write_text(f"{head}class Greeter(Base, {contract}):\n    config: int\n")
    with pytest.raises(Failure) as failure:
        load_service(target)
    assert says in str(failure.value)
    assert failure.value.code == ExitCode.USAGE


def test_modules_of_the_working_folder_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside.py").write_text("from main import Greeter\n")
    assert load_service("beside:Greeter").definition.name == "greeter"


FROZEN = """
import gc
from main import Greeter, pb
from meshkit import Call, rpc

class Hello(Greeter, contract=pb.DESCRIPTOR.services_by_name["GreeterService"], name="greeter"):
    @rpc(permission="greeter:greet")
    async def greet(self, request: pb.GreetRequest, call: Call) -> pb.GreetResponse:
        return pb.GreetResponse(text=str(gc.get_freeze_count()))
"""


def test_what_is_there_at_the_start_is_not_walked_over_by_the_garbage_collector(shell) -> None:
    (shell.folder / "frozen.py").write_text(FROZEN)
    with shell.serving("frozen:Hello", GRPC_PORT="0"):
        done = shell("call", "greeter/Greet", '{"name": "Ada"}', "--compact")
    assert done.code == 0, done.err
    assert int(json.loads(done.out)["text"]) > 10_000
