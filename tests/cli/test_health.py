"""`meshkit health`: exit code 0 only where all serve."""

import json
import re
import socket

import pytest

from meshkit.cli.output import ExitCode


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@pytest.mark.parametrize("words", [(), ("greeter",)])
def test_instances_that_serve_are_healthy(greeting, words: tuple[str, ...]) -> None:
    done = greeting("health", *words)
    assert done.code == 0, done.err
    heading, _, row = done.out.splitlines()
    assert heading.split() == ["service", "instance", "address", "health"]
    assert row.split()[0] == "greeter"
    assert "SERVING" in row


def test_an_address_needs_no_settings(greeting) -> None:
    address = json.loads(greeting("health", "--json").out)[0]["address"]
    done = greeting("health", address, CU_ENV="nonsense")
    assert done.code == 0
    assert done.out.startswith(f"{address} SERVING (")


def test_an_address_alone_is_told_of_as_with_options(greeting) -> None:
    address = json.loads(greeting("health", "--json").out)[0]["address"]
    told = [greeting("health", *words).out for words in ((address,), ("--timeout", "3", address))]
    assert len({re.sub(r"\d+ ms", "", text) for text in told}) == 1


def test_nobody_at_an_address_is_a_failure(shell) -> None:
    done = shell("health", f"127.0.0.1:{free_port()}")
    assert done.code == ExitCode.FAILED
    assert "UNREACHABLE (Connection refused)" in done.out


def test_a_server_that_does_not_answer_is_a_failure(shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        done = shell("health", f"127.0.0.1:{silent.getsockname()[1]}", "--timeout", "0.3", "--json")
    assert done.code == ExitCode.FAILED
    (found,) = json.loads(done.out)
    assert (found["health"], found["problem"]) == ("UNREACHABLE", "no answer within 0.3 s")


def test_one_that_does_not_serve_is_enough(greeting) -> None:
    address = json.loads(greeting("health", "--json").out)[0]["address"]
    listed = f"static://greeter={address},127.0.0.1:{free_port()}"
    done = greeting("health", CU_REGISTRY_URL=listed)
    assert done.code == ExitCode.FAILED
    assert "SERVING" in done.out
    assert "UNREACHABLE" in done.out


def test_nobody_to_ask_is_a_failure(shell) -> None:
    done = shell("health")
    assert done.code == ExitCode.FAILED
    assert "there is no instance of any service in file://" in done.err


@pytest.mark.parametrize("word", ["127.0.0.1:x", ":50051", "127.0.0.1:0", "Gr.eeter"])
def test_what_is_no_address_and_no_service_is_a_wrong_command_line(shell, word: str) -> None:
    assert shell("health", word).code == ExitCode.USAGE
