"""The doctor's look at databases, by the kind of their URLs; and at whatever else a service knows to look at."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshkit.cli.doctor.findings import Case, Finding, Named, fault, good, note, warning
from meshkit.cli.doctor.redis import look_at

if TYPE_CHECKING:
    from meshkit.config import SharedConfig

CONNECT_S = 5
"""Seconds that a database has to answer."""

_SUFFIX = "_database_url"
_OLDEST = 130000
"""The oldest PostgreSQL that its makers still mend, as it numbers itself, with a release to spare."""

INSTALL = "pip install 'meshkit[postgres]'"


async def look_at_databases(case: Case) -> list[Finding]:
    """Looks at the database of each service; changes nothing in it."""
    if not case.services:
        return [note("not looked at", "name services, such as `meshkit doctor greeter:Greeter`")]
    found = [finding for service in case.services async for finding in _of(service)]
    return found or [note("these services have none")]


async def _of(service: Named) -> AsyncIterator[Finding]:
    config = service.config
    for name in type(config).model_fields:
        if name.endswith(_SUFFIX):
            async for finding in _database(config.env_name(name), _text(getattr(config, name)), config):
                yield finding
    if service.kind is not None:
        for problem in await service.kind.examine_setup(config):
            yield fault(f"{problem.setting}: {problem.what}", problem.mend or "mend it")


async def _database(setting: str, url: str, config: SharedConfig) -> AsyncIterator[Finding]:
    from meshkit.config import RedisUrl, is_postgresql_url, is_redis_url

    if not url:
        yield _folder(setting, config.state_dir)
    elif is_redis_url(url):
        for finding in await look_at(RedisUrl.parse(url), config):
            yield finding
    elif is_postgresql_url(url):
        async for finding in _postgresql(setting, url, config):
            yield finding
    elif url.startswith("sqlite:///"):
        yield _sqlite(setting, Path(url.removeprefix("sqlite:///")))
    else:
        yield note(f"{setting}: nobody here knows how to look at {url.partition('://')[0]}://")


def _folder(setting: str, folder: Path) -> Finding:
    there = next(each for each in (folder, *folder.parents) if each.exists())
    if os.access(there, os.W_OK | os.X_OK):
        return good(f"{setting} is not set: SQLite in {folder}, which can be written")
    return fault(
        f"{setting} is not set, and {there} cannot be written", "let this user write it, or set CU_STATE_DIR"
    )


def _sqlite(setting: str, file: Path) -> Finding:
    if not file.exists():
        return _folder(f"{setting} names {file}, which is made when it is needed; it", file.absolute().parent)
    try:
        with sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=CONNECT_S) as database:
            tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        database.close()
    except sqlite3.Error as error:
        return fault(f"{setting}: {file} cannot be read ({error})", "let this user read it, or restore it")
    if not os.access(file, os.W_OK):
        return fault(f"{setting}: {file} cannot be written", "let this user write it")
    return good(f"{setting}: {file}, {tables} tables and indexes")


async def _postgresql(setting: str, url: str, config: SharedConfig) -> AsyncIterator[Finding]:
    try:
        import psycopg
    except ImportError:
        yield note(f"{setting}: not looked at, for psycopg is not installed", INSTALL)
        return
    try:
        connection = await psycopg.AsyncConnection.connect(url, connect_timeout=CONNECT_S, autocommit=True)
    except psycopg.Error as error:
        yield fault(f"{setting}: no connection ({_first_line(error)})", "see that it runs, and mend the URL")
        return
    async with connection:
        try:
            async for finding in _connected(setting, connection, config):
                yield finding
        except psycopg.Error as error:
            yield fault(
                f"{setting}: it refuses a question ({_first_line(error)})", "give the user its rights"
            )


async def _connected(setting: str, connection: Any, config: SharedConfig) -> AsyncIterator[Finding]:
    info = connection.info
    tls = "over TLS" if info.pgconn.ssl_in_use else "in plain text"
    number = info.server_version
    what = f"{setting}: PostgreSQL {number // 10000}.{number % 10000}, database {info.dbname} as {info.user}, {tls}"
    yield good(what) if number >= _OLDEST else warning(what, "upgrade it: its makers do not mend it any more")
    yield await _clock(setting, connection, config)
    yield await _vectors(setting, connection)
    for schema, version in await _schemas(connection):
        yield good(f"{setting}: schema {schema} is at version {version}")


async def _clock(setting: str, connection: Any, config: SharedConfig) -> Finding:
    begun = time.time()
    ahead = float((await _row(connection, "SELECT extract(epoch FROM clock_timestamp())"))[0])
    ahead -= (begun + time.time()) / 2
    told = f"{setting}: its clock is {abs(ahead):.2f} s {'ahead' if ahead > 0 else 'behind'}"
    return good(told) if abs(ahead) < config.clock_skew_s else warning(told, "set the clocks by NTP")


async def _vectors(setting: str, connection: Any) -> Finding:
    """Whether there is pgvector, which only some services need."""
    sql = "SELECT installed_version, default_version FROM pg_available_extensions WHERE name = 'vector'"
    installed, offered = await _row(connection, sql) or (None, None)
    if installed:
        newer = f" ({offered} is there)" if offered != installed else ""
        return good(f"{setting}: pgvector {installed}{newer}")
    if offered:
        return note(
            f"{setting}: pgvector {offered} is there, and not in this database", "CREATE EXTENSION vector"
        )
    return note(f"{setting}: there is no pgvector", "install it on the server, if a service needs it")


async def _schemas(connection: Any) -> list[tuple[str, int]]:
    """Schemas that are kept by numbered migrations, each with the last that was done."""
    sql = (
        "SELECT table_schema FROM information_schema.columns WHERE table_name = 'migrations' "
        "AND column_name = 'version' AND data_type IN ('integer', 'bigint', 'smallint') ORDER BY 1"
    )
    from psycopg.sql import SQL, Identifier

    names = [name for (name,) in await (await connection.execute(sql)).fetchall()]
    asked = "SELECT coalesce(max(version), 0) FROM {}.migrations"
    return [(name, (await _row(connection, SQL(asked).format(Identifier(name))))[0]) for name in names]


async def _row(connection: Any, sql: Any) -> Any:
    return await (await connection.execute(sql)).fetchone()


def _text(value: Any) -> str:
    reveal = getattr(value, "get_secret_value", None)
    return str(reveal() if reveal else value or "")


def _first_line(error: Exception) -> str:
    from meshkit.config import redact_url

    text = str(error).strip().splitlines()
    return redact_url(text[0][:200]) if text else type(error).__name__
