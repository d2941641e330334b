"""The room for SQLite files that processes share."""

from __future__ import annotations

import asyncio
import gc
import os
import sqlite3
import stat
import sys
import tempfile
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from meshkit import DataLoss, FailedPrecondition, MeshError, ResourceExhausted, Unavailable
from reference_services.sqlite import Database, Schema, open_database, prepare
from reference_services.sqlite.incidents import Incidents
from tests.reference.process import ADD, SCHEMA

ROOT = Path(__file__).parents[2]
LATER = replace(
    SCHEMA, migrations=(*SCHEMA.migrations, "ALTER TABLE books ADD COLUMN shelf TEXT; -- it's; new\n")
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "library.sqlite"


@pytest.fixture
async def database(path: Path) -> AsyncIterator[Database]:
    async with open_database(path, SCHEMA, readers=1) as opened:
        yield opened


async def start(what: str, path: Path) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.reference.process", what, str(path)),
        cwd=ROOT,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
    )


async def said_ready(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"


async def books(database: Database) -> dict[str, int]:
    return await database.read(lambda db: dict(db.execute("SELECT title, copies FROM books").fetchall()))


async def forever(work: Callable[[Database], Awaitable[object]], database: Database) -> None:
    while True:
        await work(database)


async def refused(path: Path, schema: Schema = SCHEMA) -> MeshError:
    with pytest.raises(MeshError) as caught:
        async with open_database(path, schema, busy_timeout=0.1):
            pass
    return caught.value


class Held:
    """Work that a thread is in the midst of, until it is let go."""

    def __init__(self) -> None:
        self._begun, self._free = threading.Event(), threading.Event()

    def __call__(self, db: sqlite3.Connection) -> str:
        self._begun.set()
        assert self._free.wait(20)
        return "done"

    async def begun(self) -> None:
        assert await asyncio.to_thread(self._begun.wait, 20)

    def let_go(self) -> None:
        self._free.set()


async def begun(run: Callable[[Held], object]) -> tuple[Held, asyncio.Task[str]]:
    held = Held()
    task: asyncio.Task[str] = asyncio.ensure_future(run(held))  # type: ignore[arg-type]
    await held.begun()
    return held, task


async def test_processes_that_start_together_on_a_new_file_lose_nothing(path: Path) -> None:
    path = path.parent / "new" / "folders" / path.name
    processes = [await start("count", path) for _ in range(5)]
    for process in processes:
        await said_ready(process)
    ended = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    assert [process.returncode for process in processes] == [0] * 5, [errors.decode() for _, errors in ended]
    async with open_database(path, SCHEMA) as database:
        assert await books(database) == {"Moby Dick": 250}


async def test_a_writer_that_is_killed_in_a_transaction_leaves_what_was_before_it(path: Path) -> None:
    process = await start("linger", path)
    await said_ready(process)
    async with open_database(path, SCHEMA, busy_timeout=0.05) as database:
        assert await books(database) == {"Moby Dick": 1}
        with pytest.raises(Unavailable) as busy:
            await database.execute(ADD, ("Emma",))
        assert busy.value.reason == "DATABASE_BUSY"
        process.kill()
        await process.communicate()
        await database.execute(ADD, ("Emma",))
        assert await books(database) == {"Moby Dick": 1, "Emma": 1}


async def test_a_file_is_brought_up_to_date_and_then_refused_by_those_who_know_less(path: Path) -> None:
    async with open_database(path, SCHEMA) as database:
        await database.execute(ADD, ("Emma",))
    async with open_database(path, LATER) as database:
        await database.execute("UPDATE books SET shelf = 'A'")
    error = await refused(path)
    assert (type(error), error.reason) == (FailedPrecondition, "DATABASE_NEWER")
    assert "version 2" in error.message
    assert "up to version 1" in error.message
    assert "LIBRARY_DATABASE_URL" in error.message
    async with open_database(path, LATER) as database:
        assert await books(database) == {"Emma": 1}


async def test_a_migration_that_fails_leaves_the_version_that_was(path: Path) -> None:
    broken = replace(
        SCHEMA, migrations=(*SCHEMA.migrations, "CREATE TABLE more (x); CREATE TABLE books (y);")
    )
    async with open_database(path, SCHEMA) as database:
        await database.execute(ADD, ("Emma",))
    with pytest.raises(sqlite3.OperationalError, match="already exists"):
        await asyncio.to_thread(prepare, path, broken)
    async with open_database(path, SCHEMA) as database:
        assert await books(database) == {"Emma": 1}
        tables = await database.read(
            lambda db: db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
        )
        assert [tuple(row) for row in tables] == [("books",)]


@pytest.mark.parametrize("marked", [True, False])
async def test_a_database_of_something_else_is_refused_untouched(path: Path, marked: bool) -> None:
    if marked:
        await asyncio.to_thread(prepare, path, replace(SCHEMA, name="archive"))
    else:
        with closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE theirs (x)")
    error = await refused(path)
    assert (type(error), error.reason) == (FailedPrecondition, "DATABASE_FOREIGN")
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall() == [
            ("books" if marked else "theirs",)
        ]


async def test_a_file_that_another_library_fills_is_only_made(path: Path) -> None:
    theirs = Schema(name="theirs", setting="")
    for _ in range(2):
        await asyncio.to_thread(prepare, path, theirs)
        with closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE IF NOT EXISTS theirs (x)")
            assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.write_text("not a database, and long enough to be read as one " * 50)
    error = await refused(path)
    assert (type(error), error.reason) == (FailedPrecondition, "DATABASE_UNREADABLE")
    assert str(path) in error.message


async def test_a_damaged_file_is_told_from_a_busy_one(path: Path) -> None:
    async with open_database(path, SCHEMA) as database:
        await database.write(lambda db: db.executemany(ADD, [(f"b{n}",) for n in range(5000)]).rowcount)
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    path.write_bytes(content)
    async with open_database(path, SCHEMA) as database:
        with pytest.raises(DataLoss) as caught:
            await books(database)
    assert caught.value.reason == "DATABASE_DAMAGED"
    assert str(path) not in caught.value.message


async def test_a_folder_that_may_only_be_read_is_named_with_the_mend() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        folder = Path(name)
        path = folder / "library.sqlite"
        for _ in range(2):  # without the file, then with it
            folder.chmod(0o555)
            process = await start("visit", path)
            out, errors = await process.communicate()
            folder.chmod(0o755)
            assert process.returncode == 0, errors.decode()
            kind, reason, message = out.decode().splitlines()
            assert (kind, reason) == ("FailedPrecondition", "DATABASE_READ_ONLY")
            assert str(path) in message
            assert "LIBRARY_DATABASE_URL" in message
            await asyncio.to_thread(prepare, path, SCHEMA)


async def test_a_place_that_cannot_hold_a_file_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "library.sqlite"):
        error = await refused(path)
        assert (type(error), error.reason) == (Unavailable, "DATABASE_UNAVAILABLE")


async def test_a_full_disk_undoes_the_transaction_and_says_so(database: Database, path: Path) -> None:
    await database.execute(ADD, ("Emma",))

    def work(db: sqlite3.Connection) -> None:
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count = {pages}")
        db.executemany(ADD, [(f"{n:0500}",) for n in range(1000)])

    with pytest.raises(ResourceExhausted) as caught:
        await database.write(work)
    assert caught.value.reason == "DATABASE_FULL"
    assert await books(database) == {"Emma": 1}


async def test_a_file_that_was_taken_away_is_not_silently_made_anew(path: Path) -> None:
    async with open_database(path, SCHEMA) as database:
        path.unlink()
        with pytest.raises(Unavailable) as caught:
            await books(database)
    assert caught.value.reason == "DATABASE_UNAVAILABLE"
    assert not path.exists()


async def test_a_file_that_is_damaged_while_it_is_in_use_is_told_to_the_operator_once(path: Path) -> None:
    async with open_database(path, SCHEMA) as database:
        await database.execute(ADD, ("Emma",))
        await database.empty_log()
    async with open_database(path, SCHEMA) as database:
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (path.stat().st_size - 4096))
        with capture_logs() as logs:
            for _ in range(3):
                with pytest.raises(DataLoss) as caught:
                    await books(database)
                assert (caught.value.reason, caught.value.message) == (
                    "DATABASE_DAMAGED",
                    "the database of library is damaged: restore it from a copy",
                )
    (entry,) = logs
    assert (entry["log_level"], entry["event"]) == ("error", "the database fails")
    assert entry["reason"].startswith(f"{path} cannot be the database of library, it is damaged: restore it")
    assert "malformed" in entry["reason"]
    assert f"or set {SCHEMA.setting} to another file" in entry["reason"]


def test_an_incident_ends_when_it_was_quiet_for_a_while(path: Path) -> None:
    now = 0.0
    incidents = Incidents(path, SCHEMA, clock=lambda: now)
    damaged, busy = sqlite3.DatabaseError("malformed"), sqlite3.OperationalError("locked")
    damaged.sqlite_errorcode, busy.sqlite_errorcode = sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_BUSY
    with capture_logs() as logs:
        for step, error in ((0.0, damaged), (50.0, damaged), (50.0, busy), (50.0, damaged), (61.0, damaged)):
            now += step
            assert incidents.met(error) is not None
        assert incidents.met(sqlite3.IntegrityError("ours")) is None
    assert ["locked" in each["reason"] for each in logs] == [False, True, False, False]


async def test_files_are_their_owners_alone(database: Database, path: Path) -> None:
    await database.execute(ADD, ("Emma",))
    files = list(path.parent.iterdir())
    assert len(files) == 3
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


async def test_a_write_that_fails_leaves_nothing_and_the_next_one_works(database: Database) -> None:
    def work(db: sqlite3.Connection) -> None:
        db.execute(ADD, ("Emma",))
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await database.write(work)
    with pytest.raises(sqlite3.IntegrityError):  # a mistake of ours stays one
        await database.execute("INSERT INTO books VALUES ('x', NULL)")
    assert await books(database) == {}
    assert await database.execute(ADD, ("Emma",)) == 1


async def test_readers_see_one_snapshot_and_cannot_write(path: Path) -> None:
    async with open_database(path, SCHEMA) as database:
        await database.execute(ADD, ("Emma",))
        query = "SELECT copies FROM books"
        read_once, written = threading.Event(), threading.Event()

        def work(db: sqlite3.Connection) -> list[int]:
            seen = [db.execute(query).fetchone()[0]]
            read_once.set()
            assert written.wait(20)
            return [*seen, db.execute(query).fetchone()[0]]

        reading = asyncio.ensure_future(database.read(work))
        await asyncio.to_thread(read_once.wait, 20)
        await database.execute(ADD, ("Emma",))
        written.set()
        assert await reading == [1, 1]
        assert await books(database) == {"Emma": 2}
        with pytest.raises(FailedPrecondition):
            await database.read(lambda db: db.execute(ADD, ("Emma",)).rowcount)


async def test_the_calls_that_wait_are_bounded_for_readers_and_writers_apart(path: Path) -> None:
    async with open_database(path, SCHEMA, readers=1, waiting=2) as database:
        held, first = await begun(database.read)
        waiting = [asyncio.ensure_future(books(database)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(ResourceExhausted) as caught:
            await books(database)
        assert caught.value.reason == "DATABASE_OVERLOADED"
        assert await database.execute(ADD, ("Emma",)) == 1
        held.let_go()
        assert await first == "done"
        assert await asyncio.gather(*waiting) == [{"Emma": 1}] * 2


async def test_work_whose_caller_gave_up_is_not_done_and_still_bounded(path: Path) -> None:
    async with open_database(path, SCHEMA, waiting=3) as database:
        held, first = await begun(database.write)
        for _ in range(2):
            abandoned = asyncio.ensure_future(database.execute(ADD, ("Emma",)))
            await asyncio.sleep(0)
            abandoned.cancel()
            await asyncio.wait([abandoned])
        last = asyncio.ensure_future(database.execute(ADD, ("Persuasion",)))
        await asyncio.sleep(0)
        with pytest.raises(ResourceExhausted):
            await database.execute(ADD, ("Emma",))
        held.let_go()
        assert await asyncio.gather(first, last) == ["done", 1]
        assert await books(database) == {"Persuasion": 1}


async def test_closing_finishes_what_runs_turns_away_what_waits_and_ends_the_threads(path: Path) -> None:
    before = set(threading.enumerate())
    async with open_database(path, SCHEMA, readers=2) as database:
        held, running = await begun(database.write)
        waits = asyncio.ensure_future(database.execute(ADD, ("Emma",)))
        await asyncio.sleep(0)
        closing_ = asyncio.ensure_future(asyncio.to_thread(database.close))
        with pytest.raises(Unavailable, match="DATABASE_CLOSED"):
            await forever(books, database)
        held.let_go()
        await closing_
        assert await running == "done"
        with pytest.raises(Unavailable, match="library is closed"):
            await waits
    ours = [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("library")]
    assert ours == []
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name]  # the log went into the file


async def test_neither_results_nor_errors_are_kept(database: Database) -> None:
    class Large:
        pass

    def fail(db: sqlite3.Connection) -> None:
        large = Large()
        kept.append(weakref.ref(large))
        raise ValueError("no")

    kept: list[weakref.ref[Large]] = []
    gc.disable()
    try:
        kept.append(weakref.ref(await database.read(lambda db: Large())))
        with pytest.raises(ValueError, match="no"):
            await database.write(fail)
        await database.read(lambda db: None)
        await database.write(lambda db: None)
        gc.collect()
        assert [reference() for reference in kept] == [None, None]
    finally:
        gc.enable()


async def test_a_cursor_does_not_leave_its_thread(database: Database) -> None:
    with pytest.raises(TypeError, match="return its rows"):
        await database.read(lambda db: db.execute("SELECT 1"))


async def test_any_loop_of_the_process_may_use_it(database: Database) -> None:
    await asyncio.to_thread(asyncio.run, database.execute(ADD, ("Emma",)))
    assert await asyncio.to_thread(asyncio.run, books(database)) == {"Emma": 1}


async def test_what_the_schema_asks_of_connections_holds(path: Path) -> None:
    careful = replace(SCHEMA, synchronous="FULL", secure_delete=True)
    for schema, wanted in ((SCHEMA, [1, 0]), (careful, [2, 1])):
        async with open_database(path, schema) as database:
            for run in (database.read, database.write):
                assert (
                    await run(
                        lambda db: [
                            db.execute(f"PRAGMA {name}").fetchone()[0]
                            for name in ("synchronous", "secure_delete")
                        ]
                    )
                    == wanted
                )


async def test_a_file_that_was_taken_away_or_replaced_takes_nothing_until_it_is_back(
    database: Database, path: Path, tmp_path: Path
) -> None:
    await database.execute(ADD, ("Emma",))
    away = tmp_path / "away"
    away.mkdir()
    for each in tmp_path.glob("library.sqlite*"):
        each.rename(away / each.name)
    for what in ("it was taken away", "another was put in its place"):
        with capture_logs() as logs:
            for call in (database.check(), database.execute(ADD, ("Lost",)), books(database)):
                with pytest.raises(Unavailable) as caught:
                    await call
                assert caught.value.reason == "DATABASE_UNAVAILABLE"
        assert path.exists() or f"{what} while it was open" in logs[0]["reason"]
        path.touch()
    for each in away.iterdir():
        each.rename(tmp_path / each.name)
    await database.check()
    assert await books(database) == {"Emma": 1}


async def test_a_file_that_is_asked_too_much_is_there(path: Path) -> None:
    async with open_database(path, SCHEMA, readers=1, waiting=1) as database:
        reading, over = threading.Event(), threading.Event()

        def hold(_: sqlite3.Connection) -> None:
            reading.set()
            over.wait()

        held = asyncio.create_task(database.read(hold))
        await asyncio.to_thread(reading.wait)
        waiting = asyncio.create_task(books(database))
        await asyncio.sleep(0)
        await database.check()
        over.set()
        await asyncio.gather(held, waiting)
