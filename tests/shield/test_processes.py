"""A real Shield, really killed; and what its operator types."""

import asyncio
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from meshkit import MeshError
from meshkit.security.tokens import peek
from reference_services.shield.verifying import verify_audit
from tests.cli.running import Up, command_lines, meshkit
from tests.security.handmade import Handmade, b64
from tests.shield.conftest import SECRET, served
from tests.shield.process import Process
from tests.shield.test_mode import client, greeting, until

MASTER_KEY = b64(b"canary-master-key-of-32-bytes-!!")
USES = ("token", "proof")


@pytest.fixture
def shield(tmp_path: Path) -> Iterator[Process]:
    process = Process(tmp_path / "state")
    process.start()
    yield process
    process.kill()


async def test_calls_go_on_while_shield_is_killed_and_started_again(shield: Process) -> None:
    async with served(shield.address) as mode:
        await client(mode).greet(greeting())
        await client(mode, "front").greet(greeting())
        await asyncio.to_thread(shield.kill)
        for _ in range(20):
            await client(mode).greet(greeting())
            await client(mode, "front").greet(greeting())
        with pytest.raises(MeshError, match=f"Shield at {shield.address} cannot be reached") as caught:
            await client(mode).greet(greeting(), tenant="beta")
        assert caught.value.reason == "SHIELD_UNREACHABLE"
        await asyncio.to_thread(shield.start)

        reasons = {"SHIELD_UNREACHABLE"}

        async def greeted() -> bool:
            try:
                await client(mode).greet(greeting(), tenant="beta")
            except MeshError as error:
                reasons.add(error.reason)
                return False
            return True

        await until(greeted, 20)
        assert reasons == {"SHIELD_UNREACHABLE"}
        await client(mode, "front").greet(greeting())


async def test_what_was_revoked_is_known_after_shield_was_killed(shield: Process) -> None:
    async with served(shield.address) as mode:
        await client(mode).greet(greeting())
        token = next(iter(mode.mesh.tokens._slots.values())).minted  # type: ignore[attr-defined]
        assert token is not None
        token_id = peek(token.text)[1]["jti"]
        done = await asyncio.to_thread(shield.run, "shield", "revoke", "--token", token_id)
        assert done.returncode == 0, done.stderr
        await asyncio.to_thread(shield.kill)
        await asyncio.to_thread(shield.start)
    async with served(shield.address) as mode:
        await client(mode).greet(greeting())
        revocations = mode.replica("echo")._guard.verifier.revocations
        assert list(revocations._tokens) == [token_id]


def test_another_master_key_stops_shield_at_once_and_says_what_to_do(shield: Process) -> None:
    shield.kill()
    process = shield.launch(SHIELD_MASTER_KEY="A" * 43)
    assert process.wait(30) == 1
    assert "SHIELD_MASTER_KEY does not open the signing key" in shield.log.read_text()


def test_what_an_operator_types(shield: Process, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    exported = shield.run(
        "keys", "export", "--for", "shield", CU_PROJECT_ID="shop", CU_PROJECT_SECRET="s1:" + "s" * 40
    )
    keys.write_text(exported.stdout)
    grants = ["--tenant", "acme", "--permission", "brain:*", "--subject", "*", "--audience", "brain"]
    done = shield.run("shield", "projects", "put", "shop", "--keys", str(keys), *grants)
    assert done.returncode == 0, done.stderr
    assert "shop is written, with s1" in done.stderr
    listed = json.loads(shield.run("shield", "projects", "list", "--json").stdout)
    assert [(one["project"], one["permissions"], one["keys"]) for one in listed] == [
        ("shop", ["brain:*"], [{"kid": "s1", "retired": False}])
    ]
    rotated = json.loads(shield.run("shield", "rotate", "--json").stdout)
    assert [key["state"] for key in rotated] == ["retiring", "active"]
    assert json.loads(shield.run("shield", "keys", "--json").stdout) == rotated
    assert "revoked, with revision 1" in shield.run("shield", "revoke", "--project", "shop").stderr
    assert shield.run("shield", "projects", "put", "shop", "--disabled").returncode == 0
    assert "shop (disabled)" in shield.run("shield", "projects", "list").stdout


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """One for tests that change nothing."""
    process = Process(tmp_path_factory.mktemp("standing") / "state")
    process.start()
    yield process
    process.kill()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("revoke",), 2, "give either --token or --project"),
        (("projects", "put", "No Project"), 1, "PROJECT_MALFORMED"),
        (("projects", "put", "shop", "--keys", "README.md"), 2, "is not TOML"),
        (("audit", "verify", "--head", "nonsense"), 1, "the head is not NUMBER:MAC"),
    ],
)
def test_what_makes_no_sense_is_refused(
    standing: Process, words: tuple[str, ...], code: int, message: str
) -> None:
    done = standing.run("shield", *words)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_audit_log_is_verified_while_shield_runs_and_tampering_is_found(
    shield: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    shield.run("shield", "rotate")
    shield.run("shield", "revoke", "--project", "shop")
    done = shield.run("shield", "audit", "verify")
    assert done.returncode == 0, done.stderr
    head = done.stdout.strip()
    assert head.startswith("3:")
    shield.run("shield", "revoke", "--project", "market")
    assert shield.run("shield", "audit", "verify", "--head", head).returncode == 0
    shield.kill()
    monkeypatch.setenv("CU_STATE_DIR", str(shield.state))
    for statement, fault in (
        ("UPDATE audit SET actor = 'local/eve' WHERE number = 2", "entry 2 was changed"),
        ("DELETE FROM audit WHERE number = 2", "entries 2 to 2 are missing"),
        ("DELETE FROM audit WHERE number >= 3", "the log was cut short: it ends with entry 1"),
        (
            "UPDATE audit_mark SET number = 1 WHERE place = 'head'",
            "the mark of where the log ends was changed",
        ),
    ):
        with closing(sqlite3.connect(shield.state / "shield.sqlite")) as database, database:
            database.execute(statement)
        assert fault in str(verify_audit().fault)
    done = shield.run("shield", "audit", "verify", "--json")
    assert (done.returncode, json.loads(done.stdout)["holds"]) == (1, False)
    assert "the audit log does not hold: the mark of where the log ends was changed" in done.stderr
    monkeypatch.setenv("SHIELD_MASTER_KEY", "A" * 43)
    assert verify_audit().fault == "the mark of where the log begins was changed"


def test_an_older_database_that_was_put_back_is_found_by_the_head_of_before(shield: Process) -> None:
    database = shield.state / "shield.sqlite"
    shield.process.terminate()  # type: ignore[union-attr]
    shield.process.wait(30)  # type: ignore[union-attr]
    before = database.read_bytes()
    shield.start()
    shield.run("shield", "rotate")
    head = shield.run("shield", "audit", "verify").stdout.strip()
    shield.process.terminate()  # type: ignore[union-attr]
    shield.process.wait(30)  # type: ignore[union-attr]
    for name in ("shield.sqlite-wal", "shield.sqlite-shm"):
        (shield.state / name).unlink(missing_ok=True)
    database.write_bytes(before)
    assert shield.run("shield", "audit", "verify").returncode == 0
    done = shield.run("shield", "audit", "verify", "--head", head)
    assert done.returncode == 1
    assert "the log was put back" in done.stderr


def test_without_a_database_there_is_nothing_to_verify(tmp_path: Path) -> None:
    done = Process(tmp_path / "state").run("shield", "audit", "verify")
    assert (done.returncode, "cannot be read as Shield's database" in done.stderr) == (1, True)


@pytest.mark.parametrize("more", [(), ("--tls", "--redis")])
def test_a_mesh_comes_up_with_a_shield_and_everything_uses_it(tmp_path: Path, more: tuple[str, ...]) -> None:
    state, said = tmp_path / "state", []
    own = {"CU_PROJECT_SECRET": f"k1:{SECRET}", "SHIELD_MASTER_KEY": MASTER_KEY, "LOG_LEVEL": "DEBUG"}
    running = Up(state, "--shield", *more, "main:Greeter", **own)
    try:
        running.until("a Shield of its own; for programs beside it: CU_SHIELD_GRPC_URL=127.0.0.1:")
        running.until("greeter 1/1")
        greeted = meshkit(state, "call", "greeter/Greet", '{"name": "Ada"}', **own)
        assert "Hello Ada" in greeted.stdout, greeted.stderr
        for service in ("greeter", "shield"):
            words = ("call", "meshkit.v1.MeshService/Describe", "{}", "--service", service)
            described = meshkit(state, *words, **own)
            assert json.loads(described.stdout)["service"] == service, described.stderr
            said.append(described.stdout)
        lines = command_lines(running.process.pid)
        assert len(lines) >= 3
        assert len([line for line in lines if "redis-server" in line]) == ("--redis" in more)
        said += lines
        explained = meshkit(state, "explain", "greeter", **own).stdout
        assert "token     from Shield at 127.0.0.1:" in explained
        nowhere = own | {"CU_SHIELD_GRPC_URL": "127.0.0.1:1"}
        by_hand = meshkit(state, "call", "greeter/Greet", '{"name": "Ada"}', **nowhere)
        assert "SHIELD_UNREACHABLE" in by_hand.stderr
        scaled = meshkit(state, "scale", "shield=2", **own)
        assert "shield has a port that others know" in scaled.stderr
        keys = meshkit(state, "shield", "keys", **own)
        assert keys.returncode == 0
        audited = meshkit(state, "shield", "audit", "verify", **own)
        assert audited.returncode == 0, audited.stderr
        said += [explained, by_hand.stderr, keys.stdout, audited.stdout]
        secrets = {
            SECRET,
            MASTER_KEY,
            *(derived(service, use) for service in ("shield", "greeter") for use in USES),
        }
        secrets |= {
            line for file in state.rglob("*") if file.suffix in (".pem", ".key") for line in private(file)
        }
        assert ("--tls" in more) == any(len(secret) > 60 for secret in secrets)
    finally:
        code = running.end()
    assert code == 0, running.output.read_text()
    assert not (state / "shield-address").exists()
    said += [file.read_text() for file in (running.output, *(state / "logs").iterdir())]
    for text in said:
        assert sorted(secret for secret in secrets if secret in text) == []


def derived(service: str, use: str) -> str:
    """A key of the project for calls to a service, as a text."""
    return b64(Handmade(service, SECRET).key(use))


def private(file: Path) -> list[str]:
    """The lines of the private key in a PEM file."""
    key = file.read_text().partition("PRIVATE KEY-----")[2].partition("-----END")[0]
    return [line for line in key.splitlines() if len(line) > 20]


def test_the_demos_job_runs_with_a_shield(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "meshkit", "demo", "--shield", "--reads", "20"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TMPDIR": str(tmp_path), "COLUMNS": "400"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    shown = done.stdout + done.stderr
    assert done.returncode == 0, shown
    for step in ("1 shield", "(shield-1)", "0 failed", "every step did what it should"):
        assert step in shown, f"{step!r} not in:\n{shown}"
