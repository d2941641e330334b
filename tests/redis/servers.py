"""Redis servers of all kinds, real ones: over TLS, with ACL users, watched by Sentinels, as a Cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from meshkit.redis.server import HOST, LocalServer, free_port
from tests.certificates import Certificates

PASSWORD = "not-a-secret: of a test's servers"
PATIENCE_S = 30.0
MASTER = "mymaster"
SLOTS = 16384


async def until(condition: Callable[[], Awaitable[bool]], what: str, patience: float = PATIENCE_S) -> None:
    """Waits until a condition holds; a Redis that cannot be asked yet is one that does not hold."""
    deadline = time.monotonic() + patience
    while True:
        try:
            if await condition():
                return
        except (RedisError, OSError):
            pass  # it is starting, or failing over: what we wait for
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {patience:g} s: {what}")
        await asyncio.sleep(0.02)


def client_of(server: LocalServer) -> Redis:
    """A client of one server that tries everything once; close it, or use it as a context manager."""
    return Redis.from_url(server.url, decode_responses=True, socket_timeout=2.0, retry=Retry(NoBackoff(), 0))


async def ask(server: LocalServer, *command: str | int) -> Any:
    """The reply of one command."""
    async with client_of(server) as client:
        return await client.execute_command(*command)  # type: ignore[no-untyped-call]


# TLS


def tls_server(
    folder: Path, certificates: Certificates, *, client_certificate: bool = False, password: str = ""
) -> LocalServer:
    """A server, not started, that speaks TLS only; its URL names the authority, and the client's certificate.

    Args:
        folder: Its folder.
        certificates: What it shows, and what it trusts.
        client_certificate: Whether it wants one of its clients.
        password: What it asks for; empty for nothing.
    """
    port = free_port()
    lines = _tls_lines(port, certificates, auth_clients=client_certificate)
    options = _trust(certificates)
    if client_certificate:
        client = quote(str(certificates.client))
        options += f"&ssl_certfile={client}&ssl_keyfile={client}"
    return LocalServer(folder, port=port, password=password, config=lines, scheme="rediss", options=options)


def _tls_lines(port: int, certificates: Certificates, *, auth_clients: bool = False) -> list[str]:
    return [
        "port 0",
        f"tls-port {port}",
        f'tls-cert-file "{certificates.server}"',
        f'tls-key-file "{certificates.server}"',
        f'tls-ca-cert-file "{certificates.ca}"',
        f"tls-auth-clients {'yes' if auth_clients else 'no'}",
        "tls-replication yes",
    ]


def _trust(certificates: Certificates) -> str:
    return f"ssl_ca_certs={quote(str(certificates.ca))}"


def _node(
    folder: Path,
    certificates: Certificates | None,
    *,
    password: str,
    config: Sequence[str],
    arguments: Sequence[str] = (),
) -> LocalServer:
    """One of several servers, not started; over TLS where there are certificates."""
    if certificates is None:
        return LocalServer(folder, password=password, config=config, arguments=arguments)
    port = free_port()
    return LocalServer(
        folder,
        port=port,
        password=password,
        config=[*_tls_lines(port, certificates), *config],
        arguments=arguments,
        scheme="rediss",
        options=_trust(certificates),
    )


# ACL


@dataclass(frozen=True)
class AclServer:
    """A running server and a user of it.

    Attributes:
        server: The server; its own URL is the administrator's.
        url: The URL of the user.
    """

    server: LocalServer
    url: str


@asynccontextmanager
async def acl_server(folder: Path, rules: str, *, user: str = "meshkit") -> AsyncIterator[AclServer]:
    """A server with a user of its own.

    Args:
        folder: Its folder.
        rules: What the user may, as in an ACL file: `~ns:* &ns:* +get …`.
        user: The user's name.
    """
    password = "a-password-of-the-test"
    async with LocalServer(folder, config=[f"user {user} on >{password} {rules}"]) as server:
        yield AclServer(server, f"redis://{user}:{password}@{HOST}:{server.port}/0")


# Sentinel


@dataclass(frozen=True)
class Sentinels:
    """A master, its replicas, and the Sentinels that watch them, all running.

    Attributes:
        data: The servers that hold data: the first master, and its replicas.
        sentinels: The Sentinels.
        url: The URL for clients.
    """

    data: Sequence[LocalServer]
    sentinels: Sequence[LocalServer]
    url: str

    async def master(self) -> LocalServer:
        """The master by the word of the first Sentinel."""
        _, port = await ask(self.sentinels[0], "SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
        return next(server for server in self.data if server.port == int(port))

    async def kill_master(self) -> LocalServer:
        """Kills the master; returns the one that the Sentinels have made of a replica in its place."""
        old = await self.master()
        await old.kill()

        async def replaced() -> bool:
            new = await self.master()
            return new is not old and (await ask(new, "ROLE"))[0] == "master"

        await until(replaced, "the Sentinels name another master")
        return await self.master()


@asynccontextmanager
async def sentinels(
    folder: Path,
    *,
    replicas: int = 2,
    watchers: int = 3,
    sentinel_password: bool = False,
    certificates: Certificates | None = None,
) -> AsyncIterator[Sentinels]:
    """A master with replicas and Sentinels, once they all know each other.

    Args:
        folder: A folder for their folders.
        replicas: Number of replicas.
        watchers: Number of Sentinels; a majority of them decides.
        sentinel_password: Whether the Sentinels want the password too.
        certificates: What all show and trust, where all is to be over TLS.
    """
    async with AsyncExitStack() as stack:
        lines = [f'masterauth "{PASSWORD}"', "repl-diskless-sync-delay 0", "repl-ping-replica-period 1"]
        data = [_node(folder / "data-0", certificates, password=PASSWORD, config=lines)]
        await stack.enter_async_context(data[0])
        lines = [*lines, f"replicaof {HOST} {data[0].port}"]
        data += [
            _node(folder / f"data-{n + 1}", certificates, password=PASSWORD, config=lines)
            for n in range(replicas)
        ]
        password = PASSWORD if sentinel_password else ""
        lines = _sentinel_lines(data[0].port, watchers // 2 + 1, password)
        watching = [
            _node(
                folder / f"sentinel-{n}",
                certificates,
                password=password,
                config=lines,
                arguments=["--sentinel"],
            )
            for n in range(watchers)
        ]
        for server in data[1:]:
            await stack.enter_async_context(server)
        for server in data[1:]:
            await until(partial(_synchronized, server), "a replica has the master's data")
        for server in watching:
            await stack.enter_async_context(server)
        for server in watching:
            await until(partial(_knows, server, replicas, watchers - 1), "the Sentinels know each other")
        hosts = ",".join(f"{HOST}:{server.port}" for server in watching)
        options = ["sentinel_auth=true"] if sentinel_password else []
        options += [_trust(certificates)] if certificates else []
        scheme = "rediss" if certificates else "redis"
        yield Sentinels(
            data,
            watching,
            f"{scheme}+sentinel://:{quote(PASSWORD, safe='')}@{hosts}/{MASTER}/0" + _query(options),
        )


def _sentinel_lines(port: int, quorum: int, password: str) -> list[str]:
    return [
        f"sentinel monitor {MASTER} {HOST} {port} {quorum}",
        f'sentinel auth-pass {MASTER} "{PASSWORD}"',
        f"sentinel down-after-milliseconds {MASTER} 1000",
        f"sentinel failover-timeout {MASTER} 5000",
        *([f'sentinel sentinel-pass "{password}"'] if password else []),
    ]


async def _synchronized(server: LocalServer) -> bool:
    async with client_of(server) as client:
        return bool((await client.info("replication"))["master_link_status"] == "up")


async def _knows(sentinel: LocalServer, replicas: int, others: int) -> bool:
    fields = await ask(sentinel, "SENTINEL", "MASTER", MASTER)
    master = fields if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=True))
    counted = (int(master["num-slaves"]), int(master["num-other-sentinels"]))
    replica_fields = str(await ask(sentinel, "SENTINEL", "REPLICAS", MASTER))
    return counted == (replicas, others) and (not replicas or "master-link-status" in replica_fields)


def _query(options: Sequence[str]) -> str:
    return f"?{'&'.join(options)}" if options else ""


# Cluster


@dataclass(frozen=True)
class Cluster:
    """The nodes of a Redis Cluster, all running.

    Attributes:
        nodes: The nodes.
        url: The URL for clients.
    """

    nodes: Sequence[LocalServer]
    url: str

    async def owner(self, key: str) -> LocalServer:
        """The master of the slot in which a key is, by the word of the first node that runs."""
        node = next(node for node in self.nodes if node.pid is not None)
        slot = await ask(node, "CLUSTER", "KEYSLOT", key)
        for first, last, master, *_ in await ask(node, "CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == master[1])
        raise LookupError(f"no master has slot {slot} of {key!r}")

    async def kill_owner(self, key: str) -> LocalServer:
        """Kills the master of a key's slot; returns the replica that has taken its place."""
        old = await self.owner(key)
        await old.kill()

        async def replaced() -> bool:
            new = await self.owner(key)
            return new is not old and "cluster_state:ok" in await ask(new, "CLUSTER", "INFO")

        await until(replaced, "a replica has taken the place of a master")
        return await self.owner(key)


@asynccontextmanager
async def cluster(
    folder: Path, *, masters: int = 3, replicas: int = 1, certificates: Certificates | None = None
) -> AsyncIterator[Cluster]:
    """A Cluster, once all its slots are served and its replicas have their masters' data.

    Args:
        folder: A folder for the folders of its nodes.
        masters: Number of masters; 3 is the least of which a majority survives the loss of one.
        replicas: Number of replicas of each master.
        certificates: What all show and trust, where all is to be over TLS.
    """
    async with AsyncExitStack() as stack:
        tls = ["tls-cluster yes"] if certificates else []
        nodes: list[LocalServer] = []
        buses: list[int] = []
        for number in range(masters * (replicas + 1)):
            buses.append(free_port())
            lines = [*_cluster_lines(buses[-1]), *tls]
            node = _node(folder / f"node-{number}", certificates, password=PASSWORD, config=lines)
            nodes.append(await stack.enter_async_context(node))
        await _introduce(nodes, buses)
        await _share_slots(nodes[:masters])
        await _follow(nodes, masters)
        for node in nodes:
            await until(partial(_whole, node, len(nodes)), "every node sees a whole Cluster")
        hosts = ",".join(f"{HOST}:{node.port}" for node in nodes)
        scheme = "rediss" if certificates else "redis"
        options = [_trust(certificates)] if certificates else []
        yield Cluster(nodes, f"{scheme}+cluster://:{quote(PASSWORD, safe='')}@{hosts}" + _query(options))


def _cluster_lines(bus: int) -> list[str]:
    return [
        "cluster-enabled yes",
        "cluster-node-timeout 1000",
        f"cluster-port {bus}",
        f'masterauth "{PASSWORD}"',
        "repl-diskless-sync-delay 0",
        "repl-ping-replica-period 1",  # until the first, CLUSTER SLOTS does not name a replica
    ]


async def _introduce(nodes: Sequence[LocalServer], buses: Sequence[int]) -> None:
    for number, node in enumerate(nodes[1:], 1):
        await ask(node, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        await ask(nodes[0], "CLUSTER", "MEET", HOST, node.port, buses[number])
    for node in nodes:
        await until(partial(_acquainted, node, len(nodes)), "the nodes know each other")


async def _acquainted(node: LocalServer, count: int) -> bool:
    lines = str(await ask(node, "CLUSTER", "NODES")).splitlines()
    return len(lines) == count and all(" connected" in line and "handshake" not in line for line in lines)


async def _share_slots(masters: Sequence[LocalServer]) -> None:
    bounds = [SLOTS * number // len(masters) for number in range(len(masters) + 1)]
    for node, first, end in zip(masters, bounds, bounds[1:], strict=False):
        await ask(node, "CLUSTER", "ADDSLOTSRANGE", first, end - 1)


async def _follow(nodes: Sequence[LocalServer], masters: int) -> None:
    """Makes each node past the first `masters` a replica of one of these."""
    for number, node in enumerate(nodes[masters:]):
        master = await ask(nodes[number % masters], "CLUSTER", "MYID")
        await ask(node, "CLUSTER", "REPLICATE", master)
        await until(partial(_synchronized, node), "a replica has its master's data")


async def _whole(node: LocalServer, count: int) -> bool:
    facts = str(await ask(node, "CLUSTER", "INFO"))
    slots = await ask(node, "CLUSTER", "SLOTS")
    return "cluster_state:ok" in facts and sum(len(row) - 2 for row in slots) == count


# Any of them


@asynccontextmanager
async def smallest(
    kind: str, folder: Path, certificates: Certificates | None = None
) -> AsyncIterator[tuple[str, LocalServer]]:
    """The smallest set-up of a kind (`single`, `sentinel`, `cluster`): its URL, and the server that has the data."""
    if kind == "sentinel":
        async with sentinels(folder, replicas=0, watchers=1, certificates=certificates) as group:
            yield group.url, group.data[0]
    elif kind == "cluster":
        async with cluster(folder, masters=1, replicas=0, certificates=certificates) as nodes:
            yield nodes.url, nodes.nodes[0]
    else:
        one = tls_server(folder, certificates) if certificates else LocalServer(folder, password=PASSWORD)
        async with one as server:
            yield server.url, server
