"""No secret is in anything that real processes write, answer, or show in the process list."""

import asyncio
import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

from meshkit.redis.server import LocalServer
from tests.cli.running import command_lines
from tests.resilience.ports import free_ports
from tests.security.handmade import Handmade, b64, call
from tests.security.services import BODY, GREET
from tests.security.test_secrecy import secrets_of, wrong_calls

ROOT = Path(__file__).parents[2]
SECRET = "canary-secret-of-the-project-0123456789"
OTHER = "canary-secret-of-another-project-0123456"
SEALING = base64.urlsafe_b64encode(b"canary-sealing-key-of-32-bytes!!").decode()
PASSWORD = "canary-password-of-redis"
LLM_KEY = "canary-key-of-a-language-model"
PAYLOAD = "Hopper"
ME = Handmade("echo", SECRET)
SHOP = Handmade("echo", OTHER, "shop", "s1")

DESCRIBE = ("call", "meshkit.v1.MeshService/Describe", "{}", "--service", "echo")

MAIN = """
from meshkit.config import Secret
from pydantic import Field
from meshkit import SharedConfig
from tests.security.services import Echo

class Settings(SharedConfig):
    echo_api_key: Secret = Field(default=Secret(""), description="A key of the service's own.")

class Own(Echo, name="echo", port=0):
    config: Settings
"""


def environment(folder: Path, server: LocalServer) -> dict[str, str]:
    return {
        "PATH": os.defpath,
        "HOME": str(folder),
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT), str(ROOT / "examples" / "greeter")]),
        "CU_STATE_DIR": str(folder / "state"),
        "CU_PROJECT_SECRET": f"k1:{SECRET}",
        "REDIS_URL": server.url,
        "REDIS_SECRET_KEY": f"s1:{SEALING}",
        "ECHO_API_KEY": LLM_KEY,
        "LOG_LEVEL": "DEBUG",
        "CU_TENANT": "acme",
        "CU_DRAIN_PROPAGATION_S": "0.1",
        "GRPC_PORT": "0",
    }


def canaries() -> set[str]:
    """Secrets, and the keys that are derived of them, in the ways that they could be written."""
    found = {SECRET, OTHER, SEALING, "canary-sealing-key", PASSWORD, LLM_KEY, PAYLOAD, "Bearer eyJ"}
    for caller in (ME, SHOP):
        for use in ("token", "proof"):
            key = caller.key(use)
            found |= {b64(key), base64.b64encode(key).decode(), key.hex(), repr(key)[2:-1]}
    return found


@contextmanager
def running(folder: Path, environ: dict[str, str]) -> Iterator[Path]:
    """The service as a process; the file of all that it writes."""
    written = folder / "log.txt"
    with written.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "meshkit", "run", "own:Own"],
            env=environ,
            cwd=folder,
            stdout=log,
            stderr=log,
        )
    try:
        yield written
    finally:
        process.terminate()
        process.wait(30)


async def meshkit(
    folder: Path, environ: dict[str, str], *words: str, given: str = "", code: int = 0
) -> tuple[str, str]:
    """What a command prints, and its line in the process list while it ran."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "meshkit", *words,
        env=environ, cwd=folder,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    while (line := Path(f"/proc/{process.pid}/cmdline").read_text().replace("\0", " ")).split()[-1:] != [
        *words
    ][-1:]:
        await asyncio.sleep(0.001)  # it is about to become that program
    out, _ = await process.communicate(given.encode())
    assert process.returncode == code, out.decode()
    return out.decode(), line


def page(port: int) -> str:
    """What Prometheus would be told."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return answer.read().decode()


@pytest.mark.parametrize("json", ["true", "false"])
async def test_no_secret_is_in_what_processes_write_answer_or_show(tmp_path: Path, json: str) -> None:
    said: list[str] = []
    forbidden = canaries()
    (tmp_path / "own.py").write_text(MAIN)
    secret_file = tmp_path / "shop.secret"
    secret_file.write_text(f"s1:{OTHER}")
    async with LocalServer(tmp_path / "redis", password=PASSWORD) as server:
        (port,) = free_ports(1)
        environ = environment(tmp_path, server) | {"LOG_JSON": json, "METRICS_PORT": str(port)}
        with running(tmp_path, environ) as log:
            while (marker := "address=" if json == "false" else '"address": "') not in log.read_text():
                await asyncio.sleep(0.02)
            address = log.read_text().partition(marker)[2].split()[0].strip('",}')
            said += command_lines(os.getpid())  # the service, and its Redis
            add = ("projects", "add", "shop", "--secret-file", str(secret_file), "--tenant", "*")
            grants = ("--permission", "*", "--subject", "*")
            for words in (
                (*add, *grants),
                ("projects", "list", "--json"),
                ("keys", "list"),
                ("config", "explain"),
                ("explain", "echo", "--json"),
                ("registry", "list", "--json"),
                ("call", "echo"),
                DESCRIBE,
                ("call", "meshkit.v1.MeshService/ListPools", "{}", "--service", "echo"),
                ("call", "meshkit.v1.MeshService/Measure", "{}", "--service", "echo"),
                ("revoke", "list", "--json"),
            ):
                if json == "false" or "add" in words:
                    said += await meshkit(tmp_path, environ, *words)
            token = ME.token()
            out, line = await meshkit(tmp_path, environ, "token", "inspect", given=token)
            assert "it holds" in out
            said += [out, line]
            body = b"\n\x13break, Grace Hopper"
            for by in (ME, SHOP):
                headers = by.headers(GREET, body)
                forbidden |= secrets_of(headers)
                said.append(str(vars(await call(address, GREET, body, headers))))
            for headers in (*wrong_calls(ME, SHOP), ME.headers(GREET, BODY, token=ME.token(sub="x" * 300))):
                forbidden |= secrets_of(headers)
                said.append(str(vars(await call(address, GREET, BODY, headers))))
            if json == "false":
                told = await meshkit(tmp_path, environ, *DESCRIBE)
                assert "PROOF_MISMATCH" in told[0], "it counts what was refused"
                said += told
            said.append(await asyncio.to_thread(page, port))
            assert 'reason="PROOF_MISMATCH"' in said[-1], "its page counts that, too"
            bad = environ | {
                "CU_PROJECT_SECRET": f"k1:{SECRET},k1:{SECRET}",
                "REDIS_URL": server.url + "/x/y",
            }
            said += await meshkit(tmp_path, bad, "config", "check", code=78)
        said.append(log.read_text())
    assert "a cause that stays inside" in said[-1]
    assert "Traceback" in said[-1]
    assert all(said)
    for text in said:
        assert sorted(each for each in forbidden if each in text) == []
