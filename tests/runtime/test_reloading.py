"""Settings that are read again while services run."""

import asyncio
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from meshkit import Mesh, SharedConfig
from meshkit.config import ConfigError
from meshkit.discovery.memory import MemoryRegistry
from meshkit.reloading import Reloading
from meshkit.replica import Replica
from meshkit.security.minting import HmacTokens
from meshkit.service import CUService
from tests.certificates import Signer
from tests.security.rotating import NEW, OLD, Callers
from tests.security.services import CONTRACT, Echo, Front
from tests.serving.probe import Probe
from tests.tls.parts import Files, settings

MAIN = Path(__file__).parents[2] / "examples" / "greeter" / "main.py"
ROOT = Path(__file__).parents[2]
CALLS = 40


class EchoConfig(SharedConfig):
    """Settings of a service."""

    echo_volume: int = 3


class Loud(Echo, contract=CONTRACT, name="loud"):
    """An echo with settings of its own."""

    config: EchoConfig


class Sources:
    """The files that settings stand in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secret = folder / "secret"
        self.toml = folder / "mesh.toml"
        self.write("", f"old:{OLD}")

    def write(self, text: str | None = None, secret: str | None = None) -> None:
        for path, content in ((self.toml, text), (self.secret, secret)):
            if content is not None:
                path.with_suffix(".part").write_text(content)
                path.with_suffix(".part").replace(path)

    def load(self, kind: type[SharedConfig] = SharedConfig, **values: Any) -> Any:
        environ = {"CU_CONFIG_FILE": str(self.toml), "CU_PROJECT_SECRET_FILE": str(self.secret)}
        fixed = {"grpc_port": 0, "state_dir": self.folder, "drain_propagation_s": 0.0}
        return kind.load(environ, shared_process=False, **{**fixed, **values})


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sources:
    monkeypatch.chdir(tmp_path)
    return Sources(tmp_path)


def reloading_of(files: Sources, *replicas: Replica) -> Reloading:
    """What one process of these replicas would have."""
    made = Reloading(
        lambda: {each.kind: files.load(each.kind.config_class()) for each in replicas}, lambda: replicas
    )
    made.follow(each.config for each in replicas)
    return made


@asynccontextmanager
async def started(files: Sources, *kinds: type[CUService]) -> AsyncIterator[list[Replica]]:
    registry = MemoryRegistry()
    replicas = [Replica(kind, files.load(kind.config_class()), registry) for kind in kinds]
    try:
        for replica in replicas:
            await replica.start()
        yield replicas
    finally:
        for replica in replicas:
            await replica.kill()


async def test_a_projects_secret_is_rotated_through_its_file_without_a_failed_call_or_a_restart(
    files: Sources,
) -> None:
    async with started(files, Echo, Front, Front) as replicas:
        processes = [reloading_of(files, replica) for replica in replicas]
        async with Mesh(files.load(), replicas[0].registry) as mesh:
            callers = Callers(mesh, service="front")
            async with callers.calling():
                for secret in (f"old:{OLD},new:{NEW}", f"new:{NEW},old:{OLD}", f"new:{NEW}"):
                    files.write(secret=secret)
                    for each in processes:  # one after the other, with calls in between
                        assert each.reload()
                        await callers.calls(CALLS)
                    mesh.rekey(files.load())
                    await callers.calls(CALLS)
        assert callers.failed == {}
        assert callers.made >= 3 * 4 * CALLS
        files.write(secret=f"old:{OLD}")
        async with Mesh(files.load(), replicas[0].registry) as late:
            outdated = Callers(late, service="front")
            async with outdated.calling():
                await outdated.calls(1)
        assert set(outdated.failed) == {"KEY_UNKNOWN"}


async def test_admission_takes_another_limit_and_the_diff_is_logged(files: Sources) -> None:
    async with started(files, Echo) as (replica,):
        files.write('CU_MAX_CALLS = 7\nCU_ZONE = "b"\n', f"new:{NEW},old:{OLD}")
        with capture_logs() as logs:
            assert reloading_of(files, replica).reload()
        assert (replica.admission.limit, replica.live.config.max_calls) == (7, 7)
        assert logs == [
            {
                "event": "settings changed",
                "log_level": "info",
                "CU_MAX_CALLS": "1000 -> 7",
                "CU_PROJECT_SECRET": "changed",
            },
            {
                "event": "settings that were changed need a restart",
                "log_level": "warning",
                "settings": "CU_ZONE",
            },
        ]


@pytest.mark.parametrize(
    ("text", "secret", "told"),
    [
        ("CU_MAX_CALLS = 0", None, "CU_MAX_CALLS: '0' is out of range; it must be at least 1"),
        ("CU_MAX_CALLS = ", None, "CU_CONFIG_FILE: the file is not TOML"),
        ("CU_MAX_CALLS = 7", "new:short", "CU_PROJECT_SECRET: secret 1 of 1 is 5 bytes, shorter than 32"),
        ("CU_MAX_CALL = 7", None, "did you mean CU_MAX_CALLS?"),
        ("CU_MAX_CALLS = 7\nGRPC_TLS_ENABLED = true", None, "GRPC_TLS_CA_CERT: TLS is on, and nothing says"),
        ("CU_MAX_CALLS = 7\nECHO_VOLUME = 'x'", None, "ECHO_VOLUME: 'x' is not a whole number"),
    ],
)
async def test_where_anything_is_wrong_nothing_is_taken_by_anybody_and_it_is_told_as_at_the_boot(
    files: Sources, text: str, secret: str | None, told: str
) -> None:
    async with started(files, Echo, Loud) as replicas:
        files.write(text, secret)
        with capture_logs() as logs:
            assert not reloading_of(files, *replicas).reload()
        with pytest.raises(ConfigError) as at_boot:
            files.load(EchoConfig)
        (line,) = logs
        assert line["event"].startswith(
            "the new settings are not used, all stay as they were: configuration: "
        )
        assert told in line["event"]
        assert told in str(at_boot.value)
        assert line["log_level"] == "error"
        assert [each.admission.limit for each in replicas] == [1000, 1000]
        assert "short" not in line["event"].replace("shorter", "")


async def test_what_one_service_cannot_take_no_other_keeps(files: Sources) -> None:
    async with started(files, Echo, Loud) as (first, second):

        def fail(config: SharedConfig) -> None:
            if config.max_calls == 7:
                raise RuntimeError("no")

        second.live.follow("max_calls", apply=fail)
        files.write("CU_MAX_CALLS = 7")
        with pytest.raises(RuntimeError):
            reloading_of(files, first, second).reload()
        assert (first.admission.limit, second.admission.limit) == (1000, 1000)
        files.write("CU_MAX_CALLS = 8")
        assert reloading_of(files, first, second).reload()
        assert (first.admission.limit, second.admission.limit) == (8, 8)


async def test_a_service_follows_settings_of_its_own(files: Sources) -> None:
    async with started(files, Loud) as (replica,):
        heard: list[int] = []
        replica.service.live.follow("echo_volume", apply=lambda config: heard.append(config.echo_volume))
        files.write("ECHO_VOLUME = 11")
        assert reloading_of(files, replica).reload()
        assert heard == [11]


async def test_files_are_read_when_they_changed_and_stand_still(files: Sources) -> None:
    async with started(files, Echo) as (replica,):
        reloading = reloading_of(files, replica)
        reloading.look()
        with capture_logs() as logs:
            files.write("CU_MAX_CALLS = 7")
            reloading.look()
            files.write("CU_MAX_CALLS = 77")
            reloading.look()
            assert (logs, replica.admission.limit) == ([], 1000)
            for _ in range(3):
                reloading.look()
            assert replica.admission.limit == 77
            files.toml.unlink()
            for _ in range(3):
                reloading.look()
        assert [line["log_level"] for line in logs] == ["info", "error"], "each is told once"
        assert replica.admission.limit == 77


async def test_dotenv_counts_also_where_there_was_none(files: Sources) -> None:
    async with started(files, Echo) as (replica,):
        reloading = reloading_of(files, replica)
        (files.folder / ".env").write_text("CU_MAX_CALLS=9\n")
        for _ in range(2):
            reloading.look()
        assert replica.admission.limit == 9


async def test_who_asks_need_not_wait_for_a_change_and_has_certificates_looked_at_too(
    tmp_path: Path, eventually: Any
) -> None:
    signer = Signer()
    certificates = Files(tmp_path / "tls").write(signer, signer.service("probe"))
    config = SharedConfig(**settings(certificates, state_dir=tmp_path, grpc_port=0))
    replica = Replica(Probe, config, MemoryRegistry())
    assert replica.certificates is not None
    before = replica.certificates.material
    reloading = Reloading(dict, lambda: [replica])
    running = asyncio.create_task(reloading.run())
    try:
        certificates.replace(signer.service("probe"))
        reloading.ask()
        await eventually(lambda: replica.certificates is not None and replica.certificates.material != before)
        assert replica.mesh.certificates is not None
        assert replica.mesh.certificates.material != before
    finally:
        running.cancel()
        await replica.kill()


async def test_the_page_names_all_that_changes_without_a_restart(files: Sources) -> None:
    followed = Replica(Echo, files.load(), MemoryRegistry()).live.followed | {"log_level"}
    table = (
        (ROOT / "docs" / "operations.md")
        .read_text()
        .partition("| takes effect at once")[2]
        .partition("\n\n")[0]
    )
    assert set(re.findall(r"`([A-Z_]+)`", table)) == {SharedConfig.env_name(name) for name in followed}


async def test_calls_to_shield_are_made_with_the_new_secret_too(files: Sources) -> None:
    async with Mesh(files.load(shield_grpc_url="127.0.0.1:1"), MemoryRegistry(), name="me") as mesh:
        files.write(secret=f"new:{NEW},old:{OLD}")
        mesh.rekey(files.load(shield_grpc_url="127.0.0.1:1"))
        assert mesh.shielded is not None
        inner = mesh.shielded._way.tokens
        assert isinstance(inner, HmacTokens)
        for tokens in (mesh.shielded.own, inner):
            assert tokens.token("shield", "").kid == "local:new"


class Process:
    """A greeter that runs."""

    def __init__(self, folder: Path, terminal: int | None = None, **given: str) -> None:
        kept = {name: text for name, text in os.environ.items() if not name.startswith(("CU_", "GRPC_"))}
        self.log = folder / "log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [*(("setsid", "--ctty") if terminal is not None else ()), sys.executable, MAIN],
                cwd=folder,
                env={**kept, "CU_STATE_DIR": str(folder), "GRPC_PORT": "0", "PYTHONPATH": str(ROOT), **given},
                stdin=terminal,
                stdout=output,
                stderr=output,
                start_new_session=terminal is None,
            )

    def says(self, text: str) -> bool:
        assert self.process.poll() is None or text in self.log.read_text(), self.log.read_text()
        return text in self.log.read_text()


async def test_sighup_has_a_process_read_its_settings_again(files: Sources, eventually: Any) -> None:
    running = Process(files.folder, CU_CONFIG_FILE=str(files.toml), CU_DRAIN_PROPAGATION_S="0")
    try:
        await eventually(lambda: running.says(" serving "))
        running.process.send_signal(signal.SIGHUP)
        await eventually(lambda: running.says("settings read again, nothing changed"))
        files.write('LOG_LEVEL = "warning"\nCU_ZONE = "b"\n')
        running.process.send_signal(signal.SIGHUP)
        await eventually(lambda: running.says("need a restart"))
        assert "settings changed" not in running.log.read_text(), "by then only warnings are written"
        files.write("LOG_LEVEL = 'quiet'")
        running.process.send_signal(signal.SIGHUP)
        await eventually(lambda: running.says("LOG_LEVEL: 'quiet' is none of its values; it must be DEBUG"))
        files.write("LOG_LEVEL = 'info'")
        running.process.send_signal(signal.SIGHUP)
        await eventually(lambda: running.says("WARNING -> INFO"))
    finally:
        running.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(running.process.wait, 30) == 0


async def test_a_process_drains_when_its_terminal_is_closed(files: Sources, eventually: Any) -> None:
    ours, theirs = pty.openpty()
    running = Process(files.folder, theirs, CU_DRAIN_PROPAGATION_S="0")
    os.close(theirs)
    try:
        await eventually(lambda: running.says(" serving "))
        os.close(ours)
        assert await asyncio.to_thread(running.process.wait, 30) == 0
        assert "stopped" in running.log.read_text()
    finally:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()
