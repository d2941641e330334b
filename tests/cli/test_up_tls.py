"""`meshkit up --tls`: mutual TLS without a setting, and commands beside it that find the way in."""

import json
from pathlib import Path

from tests.cli.running import meshkit, up


def test_a_mesh_with_mutual_tls_and_the_commands_beside_it(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with up(state, "main:Greeter", "--tls", CU_HEALTH_PORT="0") as running:
        running.until("serving: greeter 1/1")
        called = meshkit(state, "call", "greeter/Greet", '{"name": "Ada"}')
        assert (called.returncode, json.loads(called.stdout)) == (0, {"text": "Hello Ada (local)"}), (
            called.stderr
        )
        asked = meshkit(state, "health", "--json")
        (found,) = json.loads(asked.stdout)
        assert (asked.returncode, found["health"]) == (0, "SERVING"), asked.stdout
        address = found["address"]

        pinned = meshkit(state, "health", address, "--tls", "greeter")
        assert (pinned.returncode, "SERVING" in pinned.stdout) == (0, True), pinned.stdout
        wrong = meshkit(state, "health", address, "--tls", "brain")
        assert wrong.returncode == 1
        assert "the certificate that it shows is not for brain.contextunity" in wrong.stdout
        plain = meshkit(state, "health", address)
        assert plain.returncode == 1
        assert "it may speak TLS" in plain.stdout

        seen = meshkit(state, "explain", "greeter")
        assert seen.returncode == 0, seen.stderr
        assert "over an mTLS connection made before" in seen.stdout
        off = meshkit(state, "health", address, "--tls", "greeter", CU_STATE_DIR=str(tmp_path / "other"))
        assert (off.returncode, "GRPC_TLS_ENABLED is off" in off.stderr) == (78, True)
    assert not (state / "tls" / "up").exists()
    assert (state / "tls" / "greeter.pem").exists()


def test_an_authority_that_cannot_be_used_keeps_the_mesh_down(tmp_path: Path) -> None:
    state = tmp_path / "state"
    (state / "tls").mkdir(mode=0o700, parents=True)
    state.chmod(0o700)
    (state / "tls" / "ca.pem").write_text("nothing")
    done = meshkit(state, "up", "main:Greeter", "--tls")
    assert done.returncode == 1
    assert f"--tls: {state}/tls/ca.pem holds no certificate" in done.stderr


def test_the_service_of_an_address_is_not_asked_of_the_registry(tmp_path: Path) -> None:
    done = meshkit(tmp_path / "state", "health", "greeter", "--tls", "greeter")
    assert (done.returncode, "--tls is for an address" in done.stderr) == (2, True)
