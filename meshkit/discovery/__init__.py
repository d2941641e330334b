"""Discovery: where replicas register under a lease, and where callers watch them come and go.

`open_registry` turns `CU_REGISTRY_URL` into a `Registry`. An implementation is imported when it is asked for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import unquote

from meshkit.discovery.registry import Lease, LeaseTable, Refreshing, Registry, Snapshot

if TYPE_CHECKING:
    from meshkit.config import SharedConfig
    from meshkit.config.secrets import SealingKey

__all__ = ["Lease", "LeaseTable", "Refreshing", "Registry", "Snapshot", "open_registry", "registry_of"]

_REDIS = frozenset(
    f"{redis}{kind}" for redis in ("redis", "rediss") for kind in ("", "+sentinel", "+cluster")
)
SCHEMES = ("dns", "file", "memory", "static", *sorted(_REDIS))
"""What a registry URL may begin with."""


def open_registry(
    url: str,
    *,
    lease_ttl: float,
    namespace: str = "contextunity",
    sealing_keys: Sequence[SealingKey] = (),
    strict: bool = False,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Registry:
    """Opens the registry that a URL names. Nothing is read or written before its first use.

    - `memory://`: within this process; each call makes a registry of its own.
    - `static://brain=host:port,host:port;router=host:port`: fixed addresses.
    - `file:///absolute/folder`: the processes of one machine.
    - `dns://?brain=host:port&router=host:port`: all addresses of a name.
    - `redis://…`, `rediss://…`, and both with `+sentinel` or `+cluster`: any number of machines.

    Args:
        url: The registry's URL.
        lease_ttl: Seconds after which an owner that was not heard of may be forgotten; leases are renewed
            every third of it.
        namespace: Name of the mesh; keys in Redis begin with it.
        sealing_keys: Keys of records in Redis, the first one seals; without any they are plain.
        strict: Whether to register with a Redis that refuses us for good is an error, rather than tried for ever.
        clock: Unix time in seconds.
        sleep: What waits a number of seconds between renewals and looks.

    Raises:
        ValueError: The URL is none of these; the message says what is wrong with it.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise ValueError(f"registry URL {url!r} has no scheme: {_known_schemes()}")
    if scheme not in SCHEMES:
        raise ValueError(f"unknown registry URL scheme {scheme}:// in {url!r}: {_known_schemes()}")
    if not 0 < lease_ttl < float("inf"):
        raise ValueError(f"lease TTL {lease_ttl} is not a number of seconds above 0")
    if scheme == "memory":
        if rest:
            raise ValueError(f"registry URL {url!r}: nothing may follow memory://")
        from meshkit.discovery.memory import MemoryRegistry

        return MemoryRegistry(clock=clock)
    if scheme == "static":
        from meshkit.discovery.static import StaticRegistry

        return StaticRegistry.parse(rest)
    if scheme == "dns":
        from meshkit.discovery.dns import DnsRegistry

        return DnsRegistry.parse(rest, clock=clock, sleep=sleep)
    if scheme in _REDIS:
        from meshkit.config.redis_url import RedisUrl
        from meshkit.discovery.redis import RedisRegistry
        from meshkit.redis.sealing import Sealer

        return RedisRegistry(
            RedisUrl.parse(url),
            namespace=namespace,
            sealer=Sealer(sealing_keys),
            lease_ttl=lease_ttl,
            strict=strict,
            clock=clock,
            sleep=sleep,
        )
    from meshkit.discovery.file import FileRegistry

    return FileRegistry(_folder(url, rest), lease_ttl=lease_ttl, clock=clock, sleep=sleep)


def registry_of(config: SharedConfig) -> Registry:
    """Opens the registry that the settings name.

    Raises:
        ConfigError: They name none that there is.
    """
    from meshkit.config import ConfigError, Environment, Problem

    try:
        return open_registry(
            config.effective_registry_url,
            lease_ttl=config.lease_ttl_s,
            namespace=config.namespace,
            sealing_keys=config.sealing_keys,
            strict=config.env is Environment.PRODUCTION,
        )
    except ValueError as error:
        raise ConfigError([Problem("CU_REGISTRY_URL", str(error), "mend it, or unset it")]) from None


def _folder(url: str, rest: str) -> str:
    path = unquote(rest.removeprefix("localhost"))
    if not path.startswith("/"):
        raise ValueError(f"registry URL {url!r} names no absolute folder: write file:///absolute/folder")
    if "?" in rest or "#" in rest:
        raise ValueError(f"registry URL {url!r}: file:// takes no options; write ? as %3F and # as %23")
    if "\0" in path or not path.strip("/"):
        raise ValueError(f"registry URL {url!r} names no folder of its own: write file:///absolute/folder")
    return path


def _known_schemes() -> str:
    return f"there are {', '.join(f'{scheme}://' for scheme in SCHEMES)}"
