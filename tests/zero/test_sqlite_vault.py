"""A vault's file: shared by processes, sealed, and without what was destroyed."""

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from reference_services.zero.masking import Privacy, Search
from reference_services.zero.sealing import Master
from reference_services.zero.sqlite import open_sqlite_vault
from tests.zero.conftest import KEY

CANARY = "canary.7f3a@example.com"

REPLICA = """
import asyncio, sys
from pathlib import Path
from reference_services.zero.masking import Privacy, Search
from reference_services.zero.sealing import Master
from reference_services.zero.sqlite import open_sqlite_vault

async def main(path, name):
    async with open_sqlite_vault(Path(path)) as vault:
        privacy = Privacy(vault, Master(bytes(range(32))))
        for number in range(25):
            text = f"u{number}@example.com and {name}{number}@example.com"
            masked = await privacy.mask("acme", text, "s", Search())
            print(masked.text)
        privacy.close()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
async def privacy(path: Path) -> AsyncIterator[Privacy]:
    async with open_sqlite_vault(path) as vault:
        privacy = Privacy(vault, Master(KEY), ttl=60)
        yield privacy
        privacy.close()


async def test_processes_that_share_a_file_agree_on_every_placeholder(path: Path) -> None:
    root = Path(__file__).parents[2]
    replicas = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", REPLICA, str(path), name, cwd=root, stdout=subprocess.PIPE
        )
        for name in ("a", "b", "c")
    ]
    outputs = [(await replica.communicate())[0].decode().splitlines() for replica in replicas]
    assert [replica.returncode for replica in replicas] == [0, 0, 0]
    shared = [{line.split()[0] for line in lines} for lines in zip(*outputs, strict=True)]
    assert all(len(placeholders) == 1 for placeholders in shared)
    everything = {word for lines in outputs for line in lines for word in line.split() if word != "and"}
    assert len(everything) == 100
    async with open_sqlite_vault(path) as vault:
        privacy = Privacy(vault, Master(KEY))
        text = " ".join(line for lines in outputs for line in lines)
        unmasked = await privacy.unmask("acme", text, "s")
        assert (unmasked.restored, unmasked.unresolved) == (150, 0)
        assert "c24@example.com" in unmasked.text
        privacy.close()


async def test_no_value_is_in_the_files_in_the_clear(path: Path, privacy: Privacy) -> None:
    await privacy.mask("acme", f"{CANARY} 4111 1111 1111 1111", "s", Search())
    stored = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert b"SQLite format 3" in stored
    assert b"canary" not in stored
    assert b"4111" not in stored
    assert all(file.stat().st_mode & 0o077 == 0 for file in path.parent.iterdir())


async def test_a_destroyed_session_leaves_no_key_in_the_files_after_a_sweep(
    path: Path, privacy: Privacy
) -> None:
    await privacy.mask("acme", CANARY, "s", Search())
    with sqlite3.connect(path) as db:
        ((key,),) = db.execute("SELECT wrapped_key FROM session").fetchall()
        ((sealed,),) = db.execute("SELECT sealed FROM entity").fetchall()
    db.close()
    await privacy.destroy("acme", "s")
    await privacy.sweep(batch=10, batches=1)
    stored = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert key not in stored
    assert sealed not in stored


async def test_surviving_rows_cannot_be_read_without_the_session_key(path: Path, privacy: Privacy) -> None:
    masked = await privacy.mask("acme", CANARY, "s", Search())
    with sqlite3.connect(path) as db:
        rows = db.execute("SELECT * FROM entity").fetchall()
    await privacy.destroy("acme", "s")
    await privacy.mask("acme", "eve@example.com", "s", Search())
    with db:
        db.execute("DELETE FROM entity")
        db.executemany("INSERT INTO entity VALUES (?, ?, ?, ?, ?, ?)", rows)
    ((tag,),) = db.execute("SELECT tag FROM session").fetchall()
    db.close()
    forged = masked.text.replace(masked.text[-7:-1], tag)
    with pytest.raises(Exception, match="VALUE_DAMAGED") as caught:
        await privacy.unmask("acme", forged, "s")
    assert CANARY not in repr(caught.value)
