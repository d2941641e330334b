"""`meshkit token` and `meshkit keys`, as processes."""

import asyncio
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from meshkit.security.keysfile import parse_keys
from meshkit.testing import LocalMesh
from tests.security.handmade import SECRET, SETTINGS, Handmade, call
from tests.security.services import BODY, CHAT, GREET, Echo

RUN = """
import sys
from meshkit import cli
cli.VERBS.setdefault("token", ("meshkit.cli.token:app", "Make tokens, and look into them."))
cli.VERBS.setdefault("keys", ("meshkit.cli.keys:app", "Hand out keys."))
cli.main(sys.argv[1:])
"""
OLD = "an-older-secret-that-still-verifies-000"


class Shell:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ = {
            "CU_PROJECT_ID": "local",
            "CU_PROJECT_SECRET": f"k1:{SECRET},k0:{OLD}",
            "CU_STATE_DIR": str(folder / "state"),
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }

    def run(self, *words: str, given: str | bytes = "") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-c", RUN, *words],
            input=given.encode() if isinstance(given, str) else given,
            capture_output=True,
            env=self.environ,
            cwd=self.folder,
            timeout=60,
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    async def headers(self, *words: str, given: bytes = b"") -> list[tuple[str, str]]:
        done = await asyncio.to_thread(self.run, "token", "mint", *words, given=given)
        assert (done.returncode, done.stderr) == (0, "")
        return [(key, value) for key, _, value in (line.partition(": ") for line in done.stdout.splitlines())]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_a_minted_token_is_what_was_asked_for(shell: Shell) -> None:
    words = ("--for", "echo", "--tenant", "acme", "--tenant", "b", "--permission", "echo:greet")
    done = shell.run("token", "mint", *words, "--subject", "ada", "--ttl", "60", "--json")
    assert done.returncode == 0, done.stderr
    claims = json.loads(done.stdout)["claims"]
    assert (claims["aud"], claims["sub"], claims["project"]) == ("echo", "ada", "local")
    assert (claims["tenants"], claims["permissions"]) == (["acme", "b"], ["echo:greet"])
    assert claims["exp"] - claims["iat"] == 60
    bare = shell.run("token", "mint", "--for", "echo")
    assert bare.stdout.count("\n") == 1
    assert bare.stdout.count(".") == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--for", "Echo"], "is no service's name"),
        (["--for", "echo", "--tenant", "a b"], "'a b' is no tenant"),
        (["--for", "echo", "--permission", "read"], "is no permission"),
        (["--for", "echo", "--ttl", "7200"], "not between 1 and 3600 s"),
        (["--for", "echo", "--subject", "a\nb"], "printable"),
        (["--for", "echo", "--stream"], "go with --method"),
        (["--for", "echo", "--method", GREET], "give --message-file FILE, or --stream"),
        (["--for", "echo", "--method", "Greet", "--stream"], "is not /package.Service/Method"),
        (["--for", "echo", "--method", GREET, "--message-file", "none.bin"], "none.bin cannot be read"),
        (["--for", "echo", "--method", GREET, "--stream", "--to", "a b"], "--to is neither"),
        (["--for", "echo", "--method", GREET, "--stream", "--criticality", "x"], "--criticality is none of"),
        (["--for", "echo", "--method", GREET, "--stream", "--tenant", "*"], "for one tenant"),
    ],
)
def test_what_cannot_be_minted_is_a_usage_error(shell: Shell, words: list[str], said: str) -> None:
    done = shell.run("token", "mint", *words)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert done.stdout == ""
    assert SECRET not in done.stderr


async def test_the_metadata_that_it_prints_is_let_in_once(shell: Shell) -> None:
    (shell.folder / "body.bin").write_bytes(BODY)
    local = LocalMesh(Echo, settings=SETTINGS)
    async with local:
        (instance_id,) = local.instances
        found = local.service(instance_id).instance
        assert found is not None
        call_of_greet = ("--for", "echo", "--tenant", "acme", "--method", GREET)
        headers = await shell.headers(*call_of_greet, "--message-file", "body.bin", "--to", instance_id)
        assert (await call(found.address, GREET, BODY, headers)).code == "OK"
        assert (await call(found.address, GREET, BODY, headers)).reason == "PROOF_REPLAYED"
        headers = await shell.headers(
            *call_of_greet, "--message-file", "-", "--criticality", "critical", given=BODY
        )
        assert dict(headers)["x-cu-criticality"] == "critical"
        assert (await call(found.address, GREET, BODY, headers)).code == "OK"
        headers = await shell.headers("--for", "echo", "--method", CHAT, "--stream")
        assert (await call(found.address, CHAT, [], headers, streams=(True, True))).code == "OK"


def test_inspect_tells_what_is_in_a_token_and_that_it_holds(shell: Shell) -> None:
    token = Handmade("echo", name="ada").token()
    for given in (token, f"Bearer {token}\n", f"authorization: Bearer {token}\n"):
        done = shell.run("token", "inspect", given=given)
        assert done.returncode == 0, done.stdout
        assert '"sub": "ada"' in done.stdout
        assert "it holds" in done.stdout
        assert "ends: 20" in done.stdout
        assert re.search(r"UTC, in [45] minutes", done.stdout)
        assert token not in done.stdout
    old = Handmade("echo", OLD, kid="k0").token()
    assert json.loads(shell.run("token", "inspect", "--json", given=old).stdout)["holds"] is True


def test_inspect_tells_why_a_token_does_not_hold(shell: Shell) -> None:
    now = int(time.time())
    ended = Handmade("echo").token(iat=now - 8000, nbf=now - 8000, exp=now - 7300)
    done = shell.run("token", "inspect", given=ended)
    assert (done.returncode, "ends: 20" in done.stdout) == (1, True)
    assert "2 hours ago" in done.stdout
    assert "it does not hold: the token expired" in done.stdout
    strange = Handmade("echo", "the-secret-of-another-project-00000001", "shop").token()
    assert "KEY_UNKNOWN" in shell.run("token", "inspect", given=strange).stdout


def test_inspect_prints_nothing_that_a_terminal_would_obey(shell: Shell) -> None:
    token = Handmade("echo").token(sub="\x1b]0;owned\x07", iat="soon")
    done = shell.run("token", "inspect", given=token)
    assert done.returncode == 1
    assert "\x1b" not in done.stdout
    assert "made: never, it is no time" in done.stdout


@pytest.mark.parametrize("given", ["", "no token", "a.b.c", "x" * 100_000])
def test_inspect_refuses_what_is_no_token(shell: Shell, given: str) -> None:
    done = shell.run("token", "inspect", given=given)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the token is malformed" in done.stderr
    assert len(done.stderr) < 200


def test_a_token_is_not_taken_as_an_argument(shell: Shell) -> None:
    assert shell.run("token", "inspect", Handmade("echo").token()).returncode == 2


def test_exported_keys_are_rows_of_a_keys_file_without_the_secret(shell: Shell) -> None:
    done = shell.run("keys", "export", "--for", "echo")
    assert done.returncode == 0, done.stderr
    for secret in (SECRET, OLD):
        assert secret not in done.stdout + done.stderr
    new, old = parse_keys(done.stdout)
    assert (new.project, new.kid, new.status.value) == ("local", "k1", "active")
    assert (old.kid, old.status.value) == ("k0", "retiring")
    assert new.keys is not None
    assert (new.keys.token, new.keys.proof) == (Handmade("echo").key("token"), Handmade("echo").key("proof"))
    assert not new.grants.permissions
    assert "CU_PROJECT_KEYS_FILE" in done.stdout
    assert "send them as you would a password" in done.stderr
    assert json.loads(shell.run("keys", "export", "--for", "echo", "--json").stdout)[0]["kid"] == "k1"
    assert shell.run("keys", "export", "--for", "../echo").returncode == 2


async def test_exported_keys_let_another_project_in(shell: Shell) -> None:
    shell.environ |= {
        "CU_PROJECT_ID": "shop",
        "CU_PROJECT_SECRET": "s1:the-secret-of-the-shop-that-is-not-ours",
    }
    done = await asyncio.to_thread(shell.run, "keys", "export", "--for", "echo")
    commented = [line for line in done.stdout.splitlines() if line.startswith("#     ")]
    grants = "\n".join(line.removeprefix("#     ") for line in commented)
    path = shell.folder / "keys.toml"
    path.write_text(f"{done.stdout}{grants.replace('echo:read', 'echo:greet')}\n")
    path.chmod(0o600)
    local = LocalMesh(Echo, settings={**SETTINGS, "project_keys_file": path})
    async with local:
        found = local.service(local.instances[0]).instance
        assert found is not None
        (shell.folder / "body.bin").write_bytes(BODY)
        words = ("--for", "echo", "--tenant", "acme", "--method", GREET, "--message-file", "body.bin")
        headers = await shell.headers(*words, "--subject", "router")
        assert (await call(found.address, GREET, BODY, headers)).code == "OK"
        headers = await shell.headers(*words, "--subject", "admin")
        assert (await call(found.address, GREET, BODY, headers)).reason == "GRANT_EXCEEDED"
