import multiprocessing
import os
import stat
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from meshkit.config import ConfigError, Environment, SharedConfig, local_secret
from meshkit.config.state import SECRET_FILE, ensure_folder, local_secret_kid
from tests.config.samples import SECRET

ROUNDS = 25


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def refusal(folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        local_secret(folder)
    return str(caught.value)


def test_the_local_secret_is_made_once_and_for_its_owner_only(folder: Path) -> None:
    place = folder / "deep" / "state"
    secret = local_secret(place)
    assert local_secret(place) == secret
    assert len(secret.get_secret_value()) >= 32
    assert mode(place) == 0o700
    assert mode(place / SECRET_FILE) == 0o600
    assert [path.name for path in place.iterdir()] == [SECRET_FILE]


def test_umask_does_not_open_it(folder: Path) -> None:
    before = os.umask(0)
    try:
        local_secret(folder / "state")
    finally:
        os.umask(before)
    assert (mode(folder / "state"), mode(folder / "state" / SECRET_FILE)) == (0o700, 0o600)


def make(root: str, barrier: Barrier, queue: "SimpleQueue[list[str]]") -> None:
    secrets = []
    for number in range(ROUNDS):
        barrier.wait(30)
        secrets.append(local_secret(Path(root) / str(number)).get_secret_value())
    queue.put(secrets)


def test_processes_that_start_at_once_get_the_same_secret(folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(3), context.SimpleQueue()
    processes = [context.Process(target=make, args=(str(folder), barrier, queue)) for _ in range(3)]
    for process in processes:
        process.start()
    results = [queue.get() for _ in processes]
    for process in processes:
        process.join(30)
    queue.close()
    assert results[0] == results[1] == results[2]
    assert len(set(results[0])) == ROUNDS
    assert {path.name for path in folder.glob("*/*")} | {path.name for path in folder.glob("*/.*")} == {
        SECRET_FILE
    }


def test_a_file_that_others_may_read_is_refused(folder: Path) -> None:
    local_secret(folder)
    (folder / SECRET_FILE).chmod(0o640)
    message = refusal(folder)
    assert f"the local secret {folder / SECRET_FILE} is not used: others may use it (mode 0640)" in message
    assert "delete the file" in message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else_is_refused(folder: Path) -> None:
    local_secret(folder)
    os.chown(folder / SECRET_FILE, 12345, -1)
    assert "it belongs to user 12345, not to 0" in refusal(folder)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "it is empty"),
        (b"CANARY\n", "it is broken: the secret is 6 bytes, shorter than 32"),
        (b"\xffCANARY" * 10, "it is broken"),
        (b"CANARY" * 1000, "it is broken: the secret is 4096 bytes, longer than 1024"),
    ],
)
def test_a_broken_file_is_refused_and_not_quoted(folder: Path, content: bytes, what: str) -> None:
    path = folder / SECRET_FILE
    path.write_bytes(content)
    path.chmod(0o600)
    if what == "it is broken" and content.startswith(b"\xff"):
        path.write_bytes(b"\n".join([content, content]))
    message = refusal(folder)
    assert what in message
    assert str(path) in message
    assert "CANARY" not in message


def test_what_is_no_plain_file_is_refused(folder: Path) -> None:
    (folder / "real").write_text(SECRET)
    for name, create in (
        ("link", lambda path: path.symlink_to(folder / "real")),
        ("dangling", lambda path: path.symlink_to(folder / "none")),
        ("folder", lambda path: path.mkdir()),
        ("pipe", lambda path: os.mkfifo(path, 0o600)),
    ):
        place = ensure_folder(folder / name)
        create(place / SECRET_FILE)
        assert str(place / SECRET_FILE) in refusal(place)


def test_a_folder_open_to_everybody_is_refused(folder: Path) -> None:
    place = ensure_folder(folder / "state")
    place.chmod(0o1777)
    message = refusal(place)
    assert f"CU_STATE_DIR: {place}: anybody may write into it" in message


def test_a_folder_that_cannot_be_made_is_named(folder: Path) -> None:
    (folder / "file").write_text("")
    assert f"CU_STATE_DIR: {folder / 'file'}: it is not a folder" in refusal(folder / "file")
    assert f"CU_STATE_DIR: {folder / 'file' / 'state'}: it cannot be made" in refusal(
        folder / "file" / "state"
    )


def test_a_config_makes_its_folder_only_when_asked(folder: Path) -> None:
    config = SharedConfig(state_dir=folder / "state")
    assert not config.state_dir.exists()
    assert config.ensure_state_dir() == folder / "state"
    assert mode(folder / "state") == 0o700
    assert list((folder / "state").iterdir()) == []


def test_a_config_without_secret_uses_the_local_one(folder: Path) -> None:
    config = SharedConfig(state_dir=folder)
    assert local_secret_kid(folder) is None
    made = config.ensure_project_secrets()
    assert made[0].secret == local_secret(folder).get_secret_value()
    assert local_secret_kid(folder) == made[0].kid
    assert SharedConfig(state_dir=folder).ensure_project_secrets() == made


def test_a_configured_secret_is_used_and_none_is_made(folder: Path) -> None:
    config = SharedConfig(state_dir=folder, project_secret=f"a:{SECRET}")  # type: ignore[arg-type]
    assert config.ensure_project_secrets() == config.project_secrets
    assert list(folder.iterdir()) == []


def test_production_makes_no_secret(folder: Path) -> None:
    with pytest.raises(ConfigError, match="production needs a project secret"):
        SharedConfig(state_dir=folder, env=Environment.PRODUCTION).ensure_project_secrets()
    assert list(folder.iterdir()) == []
