"""A Redis, whatever its kind: one server, a master that Sentinels name, or a Cluster."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import redis.asyncio
from redis import exceptions
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from meshkit.config.redis_url import RedisKind
from meshkit.redis.sentinels import Sentinels
from meshkit.redis.trouble import RedisTrouble, another_kind, explain, too_old

if TYPE_CHECKING:
    from meshkit.config.redis_url import RedisUrl

MINIMUM = (6, 2)
"""The oldest Redis that will do."""

CONNECT_S = 2.0
REPLY_S = 2.0
"""Seconds that a server has to accept a connection, and to answer."""

SEARCH_S = 1.0
"""Seconds that each Sentinel or node of a Cluster has besides, to be reached and to say where the master is."""

MAX_COMMANDS = 16
"""Commands under way at once; more wait for their turn."""

_VERSION = re.compile(r"([0-9]+)\.([0-9]+)[0-9.]*")
_FAILURES = (exceptions.RedisError, exceptions.RedisClusterException, OSError, TimeoutError)
"""What the client library raises; what else it may raise is a bug, and passes."""


@dataclass(frozen=True)
class Script:
    """A Lua script that runs in the server as one command.

    Attributes:
        source: Its text.
        digest: What the server knows it by.
    """

    source: str
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "digest", digest)


class Database:
    """Runs commands and scripts, and opens connections for subscriptions. Nothing is dialled before that.

    Each call is tried once: whoever calls knows whether a repeat is sound, and how long it may wait.

    Args:
        url: Where it is.
    """

    def __init__(self, url: RedisUrl) -> None:
        self.url = url
        searched = 0 if url.kind is RedisKind.SINGLE else len(url.nodes)
        self._patience = CONNECT_S + REPLY_S + searched * SEARCH_S
        self._turns = asyncio.Semaphore(MAX_COMMANDS)
        self._rotation = itertools.count()
        self._checked = False
        self._closed = False
        self._sentinels: Sentinels | None = None
        self._client: redis.asyncio.Redis | redis.asyncio.RedisCluster | None = None

    async def execute(self, *command: str | bytes | int | float) -> Any:
        """Runs a command; its reply as the client library has it.

        Raises:
            RedisTrouble: It failed.
        """
        async with self._turns:
            try:
                async with asyncio.timeout(self._patience):
                    client = await self._connected()
                    return await client.execute_command(*command)
            except _FAILURES as error:
                raise explain(error, str(self.url)) from error

    async def run(self, script: Script, keys: list[str], arguments: list[str | bytes | int]) -> Any:
        """Runs a script; the server is sent its text when it does not know it.

        Raises:
            RedisTrouble: It failed.
        """
        rest = [len(keys), *keys, *arguments]
        try:
            return await self.execute("EVALSHA", script.digest, *rest)
        except RedisTrouble as trouble:
            if not isinstance(trouble.__cause__, exceptions.NoScriptError):
                raise
        return await self.execute("EVAL", script.source, *rest)

    async def hash_pages(self, key: str, count: int) -> AsyncIterator[dict[bytes, bytes]]:
        """Reads a hash in pages of about `count` fields, none of which blocks the server.

        A field that is there throughout is in one page at least; one that comes or goes meanwhile may be.

        Raises:
            RedisTrouble: It failed.
        """
        cursor = 0
        while True:
            cursor, page = await self.execute("HSCAN", key, cursor, "COUNT", count)
            yield page
            if cursor == 0:
                return

    async def score_pages(self, key: str, count: int) -> AsyncIterator[list[tuple[bytes, float]]]:
        """Reads a sorted set in pages, as `hash_pages` does a hash.

        Raises:
            RedisTrouble: It failed.
        """
        cursor = 0
        while True:
            cursor, page = await self.execute("ZSCAN", key, cursor, "COUNT", count)
            yield page
            if cursor == 0:
                return

    async def dedicated(self) -> redis.asyncio.Connection:
        """Opens a connection of one's own, for a subscription; its owner disconnects it.

        Raises:
            RedisTrouble: It cannot be had.
        """
        try:
            async with asyncio.timeout(self._patience):
                await self._connected()
                host, port = await self._address()
                connection = _connection(self.url, host, port)
                await connection.connect()  # type: ignore[no-untyped-call]
        except _FAILURES as error:
            raise explain(error, str(self.url)) from error
        return connection

    async def close(self) -> None:
        """Ends all its connections. Nothing is dialled any more: a command that comes late fails."""
        self._closed = True
        client, self._client = self._client, None
        sentinels, self._sentinels = self._sentinels, None
        for each in (client, sentinels):
            if each is not None:
                await each.aclose()

    def __str__(self) -> str:
        return str(self.url)

    async def _connected(self) -> Any:
        if self._closed:
            raise exceptions.ConnectionError("it is closed on this side")
        if self._client is None:
            self._client = self._open()
        if not self._checked:
            await self._check(self._client)
            self._checked = True
        return self._client

    def _open(self) -> Any:
        options = _options(self.url)
        if self.url.kind is RedisKind.CLUSTER:
            nodes = [ClusterNode(host, port) for host, port in self.url.nodes]
            return redis.asyncio.RedisCluster(
                startup_nodes=nodes, max_connections=MAX_COMMANDS * 2, ssl=self.url.tls, **options
            )
        if self.url.kind is RedisKind.SENTINEL:
            credentials = options if self.url.sentinel_auth else _without_credentials(options)
            patience = {"socket_connect_timeout": SEARCH_S, "socket_timeout": SEARCH_S}
            self._sentinels = Sentinels(self.url.nodes, {**credentials, **patience, "ssl": self.url.tls})
            return self._sentinels.master_for(
                self.url.master, db=self.url.database, ssl=self.url.tls, **options
            )
        host, port = self.url.nodes[0]
        return redis.asyncio.Redis(
            host=host,
            port=port,
            db=self.url.database,
            ssl=self.url.tls,
            max_connections=MAX_COMMANDS * 2,
            **options,
        )

    async def _check(self, client: Any) -> None:
        """Refuses a server of another kind than the URL says, or older than the scripts need."""
        try:
            hello = await client.execute_command("HELLO", **await self._any_node(client))
        except exceptions.NoPermissionError:
            return  # the scripts will show whether it is too old
        except exceptions.ResponseError as error:
            if "unknown command" in str(error).lower():
                raise too_old("5 or older", ".".join(map(str, MINIMUM)), str(self.url)) from error
            raise
        facts = _facts(hello)
        if self.url.kind is RedisKind.SINGLE and facts.get("mode") == RedisKind.SENTINEL:
            raise another_kind(RedisKind.SENTINEL, str(self.url))
        version = _VERSION.match(facts.get("version", ""))
        if version and (int(version[1]), int(version[2])) < MINIMUM:
            raise too_old(version[0], ".".join(map(str, MINIMUM)), str(self.url))

    async def _address(self) -> tuple[str, int]:
        """Where to open a connection of one's own."""
        if self._sentinels is not None:
            return await self._sentinels.discover_master(self.url.master)
        nodes = list(self.url.nodes)
        if isinstance(self._client, redis.asyncio.RedisCluster):
            nodes = [(str(node.host), int(node.port)) for node in self._client.get_primaries()] or nodes
        return nodes[next(self._rotation) % len(nodes)]

    async def _any_node(self, client: Any) -> dict[str, Any]:
        """Whom to ask what every node of a Cluster can answer; once the client knows the nodes it wants one named."""
        if self.url.kind is not RedisKind.CLUSTER:
            return {}
        await client.initialize()
        return {"target_nodes": client.get_random_node()}


def _options(url: RedisUrl) -> dict[str, Any]:
    """What each connection is opened with. Retries, time limits, and what to tell the server of us are ours."""
    options: dict[str, Any] = {
        "username": url.username or None,
        "password": url.password or None,
        "socket_connect_timeout": CONNECT_S,
        "socket_timeout": None,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 1 if url.kind is RedisKind.CLUSTER else 0),
        "protocol": 2,
        "driver_info": None,
    }
    return options | (_tls(url) if url.tls else {})


def _tls(url: RedisUrl) -> dict[str, Any]:
    return {
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
        "ssl_ca_certs": url.ca_certs and str(url.ca_certs),
        "ssl_certfile": url.certfile and str(url.certfile),
        "ssl_keyfile": url.keyfile and str(url.keyfile),
    }


def _without_credentials(options: dict[str, Any]) -> dict[str, Any]:
    return options | {"username": None, "password": None}


def _connection(url: RedisUrl, host: str, port: int) -> redis.asyncio.Connection:
    kind = redis.asyncio.SSLConnection if url.tls else redis.asyncio.Connection
    return kind(host=host, port=port, db=url.database, **_options(url))


def _facts(hello: Any) -> dict[str, str]:
    """What a server's greeting tells of it in words; empty where it tells nothing."""
    pairs = hello.items() if isinstance(hello, dict) else zip(hello[::2], hello[1::2], strict=False)
    return {_text(name): _text(value) for name, value in pairs}


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
