"""The control socket: one request, one answer, its owner only; whoever gives up is no longer served."""

import asyncio
import json
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from meshkit.cli import control
from meshkit.cli.control import JsonObject, ask, control_socket
from meshkit.errors import (
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    MeshError,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)


async def echo(fields: JsonObject) -> JsonObject:
    return {"said": fields}


async def refuse(fields: JsonObject) -> JsonObject:
    raise NotFound("there is no such thing", reason="NO_THING")


async def break_down(fields: JsonObject) -> JsonObject:
    raise KeyError("a defect")


class Slow:
    """A verb that takes for ever, and knows whether anybody waits for it still."""

    def __init__(self) -> None:
        self.under_way = 0

    async def __call__(self, fields: JsonObject) -> JsonObject:
        self.under_way += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.under_way -= 1
        return {}


VERBS = {"echo": echo, "refuse": refuse, "break": break_down}


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[Path]:
    async with control_socket(tmp_path / "up.sock", VERBS):
        yield tmp_path / "up.sock"


async def raw(path: Path, sent: bytes, *, close: bool = True) -> dict[str, JsonObject]:
    """What is answered to those bytes."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(sent)
    if close:
        writer.write_eof()
    answer = await reader.read()
    writer.close()
    return json.loads(answer)


async def test_a_request_is_answered(path: Path) -> None:
    assert await ask(path, "echo", {"a": [1, "ä"]}, timeout=5) == {"said": {"a": [1, "ä"]}}


async def test_only_its_owner_may_connect(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_ISSOCK(path.stat().st_mode)


async def test_a_refusal_arrives_as_the_error_that_it_was(path: Path) -> None:
    with pytest.raises(NotFound) as refused:
        await ask(path, "refuse", {}, timeout=5)
    assert (refused.value.message, refused.value.reason) == ("there is no such thing", "NO_THING")


async def test_a_defect_is_told_to_who_runs_the_mesh_and_not_to_who_asks(path: Path) -> None:
    with capture_logs() as logs, pytest.raises(Internal) as failed:
        await ask(path, "break", {}, timeout=5)
    assert "defect'" not in str(failed.value)
    assert any("KeyError: 'a defect'" in line["exception"] for line in logs)
    assert await ask(path, "echo", {}, timeout=5) == {"said": {}}


async def test_a_verb_that_it_does_not_know_is_refused(path: Path) -> None:
    with pytest.raises(Unimplemented, match="this mesh cannot 'fly': it can echo, refuse, break"):
        await ask(path, "fly", {}, timeout=5)


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"", "it does not end with a newline"),
        (b'{"verb": "echo"}', "it does not end with a newline"),
        (b"hello\n", "it is not JSON"),
        (b"\xff\xfe\n", "it is not JSON"),
        (b"[1]\n", 'it is not a JSON object with a "verb"'),
        (b"{}\n", 'it is not a JSON object with a "verb"'),
        (b'{"verb": 1}\n', 'it is not a JSON object with a "verb"'),
        (b'{"verb": "' + b"x" * control.MAX_LINE_BYTES + b'"}\n', "it is longer than 65536 bytes"),
    ],
)
async def test_what_is_no_request_is_refused(path: Path, sent: bytes, why: str) -> None:
    answer = await raw(path, sent)
    assert answer["error"]["code"] == "INVALID_ARGUMENT"
    assert why in answer["error"]["message"]


async def test_who_says_nothing_is_not_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "REQUEST_S", 0.05)
    answer = await raw(path, b'{"verb"', close=False)
    assert "it did not come within 0.05 s" in answer["error"]["message"]


async def test_a_request_that_is_too_long_is_not_sent(path: Path) -> None:
    with pytest.raises(InvalidArgument, match="bytes are too much"):
        await ask(path, "echo", {"x": "x" * control.MAX_LINE_BYTES}, timeout=5)


async def test_who_leaves_is_not_worked_for(tmp_path: Path, eventually) -> None:
    slow = Slow()
    async with control_socket(tmp_path / "up.sock", {"slow": slow}):
        asking = asyncio.create_task(ask(tmp_path / "up.sock", "slow", {}, timeout=30))
        await eventually(lambda: slow.under_way == 1)
        asking.cancel()
        await eventually(lambda: slow.under_way == 0)


async def test_too_many_at_once_are_refused(tmp_path: Path, eventually) -> None:
    slow = Slow()
    path = tmp_path / "up.sock"
    async with control_socket(path, {"slow": slow}):
        asking = [
            asyncio.create_task(ask(path, "slow", {}, timeout=30)) for _ in range(control.MAX_CONNECTIONS)
        ]
        await eventually(lambda: slow.under_way == control.MAX_CONNECTIONS)
        with pytest.raises(ResourceExhausted, match="16 requests are under way"):
            await ask(path, "slow", {}, timeout=5)
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    assert {outcome.reason for outcome in outcomes if isinstance(outcome, MeshError)} == {"MESH_ENDED"}
    assert len(outcomes) == control.MAX_CONNECTIONS
    assert slow.under_way == 0


async def test_an_answer_that_does_not_come_is_not_waited_for(tmp_path: Path) -> None:
    async with control_socket(tmp_path / "up.sock", {"slow": Slow()}):
        with pytest.raises(Unavailable, match=r"did not answer at .* within 0.05 s"):
            await ask(tmp_path / "up.sock", "slow", {}, timeout=0.05)


async def test_without_a_mesh_there_is_nobody_to_ask(tmp_path: Path) -> None:
    path = tmp_path / "up.sock"
    with pytest.raises(Unavailable) as nobody:
        await ask(path, "echo", {}, timeout=5)
    assert nobody.value.reason == "NO_MESH_IS_UP"


async def test_a_mesh_that_ended_leaves_no_socket(tmp_path: Path) -> None:
    path = tmp_path / "up.sock"
    async with control_socket(path, VERBS):
        assert path.exists()
    assert not path.exists()


async def test_a_socket_that_was_left_behind_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "up.sock"
    left = control._listening(path)
    left.close()
    with pytest.raises(Unavailable, match="no mesh is up"):
        await ask(path, "echo", {}, timeout=5)
    async with control_socket(path, VERBS):
        assert await ask(path, "echo", {}, timeout=5) == {"said": {}}


@pytest.mark.parametrize("length", [103, 104, 107, 108, 109, 250])
async def test_a_path_may_be_longer_than_the_address_of_a_socket(tmp_path: Path, length: int) -> None:
    folder = tmp_path
    while len(str(folder)) < length - 20:
        folder = folder / ("d" * min(100, length - len(str(folder)) - 10))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ("s" * (length - len(str(folder)) - 1))
    assert len(str(path)) == length
    async with control_socket(path, VERBS):
        assert await ask(path, "echo", {}, timeout=5) == {"said": {}}
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


@asynccontextmanager
async def answering(path: Path, line: bytes) -> AsyncIterator[None]:
    """A mesh that gives that answer, whatever it is asked."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(line)
        writer.close()

    server = await asyncio.start_unix_server(answer, path)
    try:
        yield
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("line", [b"{}\n", b"[]\n", b"3\n", b'{"error": 4}\n', b"what?\n", b'{"ok": []}\n'])
async def test_an_answer_that_makes_no_sense_is_said_to_make_none(tmp_path: Path, line: bytes) -> None:
    async with answering(tmp_path / "up.sock", line):
        with pytest.raises(Unavailable, match="another release"):
            await ask(tmp_path / "up.sock", "echo", {}, timeout=5)


async def test_a_refusal_of_a_kind_that_is_new_is_an_error_all_the_same(tmp_path: Path) -> None:
    line = b'{"error": {"code": "NEW", "reason": "WHY", "message": "no"}}\n'
    async with answering(tmp_path / "up.sock", line):
        with pytest.raises(MeshError, match=r"no \[WHY\]"):
            await ask(tmp_path / "up.sock", "echo", {}, timeout=5)


async def test_a_verb_that_runs_out_of_time_says_so(tmp_path: Path) -> None:
    async def late(fields: JsonObject) -> JsonObject:
        raise DeadlineExceeded("after 3 s", reason="LATE")

    async with control_socket(tmp_path / "up.sock", {"late": late}):
        with pytest.raises(DeadlineExceeded, match="after 3 s"):
            await ask(tmp_path / "up.sock", "late", {}, timeout=5)
