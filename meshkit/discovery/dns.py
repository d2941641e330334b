"""`dns://`: each service is a name, and each address of the name an instance."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import random
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass

from meshkit.discovery.latest import Latest
from meshkit.discovery.nominal import NominalLease, NominalLeases
from meshkit.discovery.registry import Snapshot
from meshkit.discovery.resolver import Resolve, SystemResolver
from meshkit.errors import FailedPrecondition
from meshkit.instance import SERVICE_NAME, Instance

RESOLVE_S = 2.0
"""Seconds between two look-ups of a name, give or take a tenth."""

AT_LEAST_S = 0.2
"""Seconds between two look-ups of a name at the least, however many endpoints fail."""

ANSWER_S = 5.0
"""Seconds after which a name without an answer cannot be resolved for now."""

MAX_NAMES = 64
"""Services that a URL may name: as many threads may be waiting for name servers that do not answer."""

_FORM = "dns://?brain=host:port&router=host:port"
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_log = logging.getLogger("meshkit.discovery")


@dataclass(frozen=True, slots=True)
class Name:
    """Where a service is to be found.

    Attributes:
        host: A name or an IP address, without brackets.
        port: The port that all its instances listen on.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return _joined(self.host, self.port)


class DnsRegistry:
    """Instances as the addresses of names. An instance's id and shard key are its address.

    A service may register: it is given a lease that changes nothing, so it runs the same under any registry.

    A new address is taken at once. One that is missing is given up when the next answer confirms that, the last one
    of a name likewise: an answer may lack a part, and which instance gets calls is for its health to say. Where
    there is no answer, the last known addresses stand.

    Args:
        names: Where each service is to be found.
        clock: Unix time in seconds.
        sleep: What waits a number of seconds between look-ups, and for their answers.
        uniform: Random number between two bounds.
        resolve: Finds the addresses of a name; the system's resolver by default.
    """

    def __init__(
        self,
        names: Mapping[str, Name],
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
        resolve: Resolve | None = None,
    ) -> None:
        self._names = dict(names)
        self._clock = clock
        self._sleep = sleep
        self._uniform = uniform
        self._resolve = resolve or SystemResolver()
        self._leases = NominalLeases()
        self._lookouts: dict[str, Lookout] = {}
        self._closed = asyncio.Event()

    @classmethod
    def parse(
        cls,
        text: str,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> DnsRegistry:
        """Reads what stands behind `dns://`.

        Raises:
            ValueError: It is not of that form; the message names the part that is wrong.
        """
        return cls(_names(text), clock=clock, sleep=sleep)

    async def register(self, instance: Instance) -> NominalLease:
        """Accepts the instance, and changes nothing: callers find what the name servers say.

        Raises:
            AlreadyExists: An instance of that id holds a lease.
            FailedPrecondition: The registry is closed.
        """
        self._must_be_open()
        return self._leases.grant(instance)

    def watch(self, service: str) -> AsyncGenerator[Snapshot, None]:
        """Yields the addresses of a service once known, and again on each change, until the registry is closed.

        A service that the URL does not name has no instances.
        """
        self._must_be_open()
        if not SERVICE_NAME.fullmatch(service):
            raise ValueError(f"service name {service!r} is not {SERVICE_NAME.pattern}")
        return self._watch(service)

    def refresh(self, service: str) -> None:
        """Looks a watched service up without delay, but not more often than every `AT_LEAST_S`."""
        if service in self._lookouts:
            self._lookouts[service].refresh()

    async def services(self) -> list[str]:
        """Names of all services that the URL names, sorted."""
        return sorted(self._names)

    async def close(self) -> None:
        """Ends all watches and look-ups."""
        self._closed.set()
        await asyncio.gather(*(lookout.close() for lookout in list(self._lookouts.values())))

    def __str__(self) -> str:
        return "dns://?" + "&".join(f"{service}={name}" for service, name in self._names.items())

    async def _watch(self, service: str) -> AsyncGenerator[Snapshot, None]:
        if self._closed.is_set():
            return
        if service not in self._names:
            yield Snapshot(service, {})
            await self._closed.wait()
            return
        lookout = self._lookouts.get(service)
        if lookout is None:
            lookout = self._lookouts[service] = Lookout(self, service, self._names[service])
        lookout.watches += 1
        try:
            async with contextlib.aclosing(lookout.latest.follow()) as snapshots:
                async for snapshot in snapshots:
                    yield snapshot
        finally:
            lookout.watches -= 1
            if not lookout.watches and self._lookouts.get(service) is lookout:
                del self._lookouts[service]
                await lookout.close()

    def _must_be_open(self) -> None:
        if self._closed.is_set():
            raise FailedPrecondition("the registry is closed", reason="REGISTRY_CLOSED")


class Lookout:
    """Looks one name up for all watches of its service, as long as there are any.

    Attributes:
        latest: What is known.
        watches: How many watches it serves.
    """

    def __init__(self, registry: DnsRegistry, service: str, name: Name) -> None:
        self.latest = Latest()
        self.watches = 0
        self._registry = registry
        self._service = service
        self._name = name
        self._known: frozenset[str] | None = None
        self._missed: frozenset[str] = frozenset()
        self._stale_since: float | None = None
        self._trouble = ""
        self._wanted = asyncio.get_running_loop().create_future()
        self._looking = asyncio.create_task(self._look(), name=f"resolve {service}")

    def refresh(self) -> None:
        """Ends the wait for the next look-up. What is asked for during one is looked up after it."""
        if not self._wanted.done():
            self._wanted.set_result(None)

    async def close(self) -> None:
        """Ends all watches, and the looking."""
        self.latest.close()
        self._looking.cancel()
        await asyncio.wait([self._looking])

    async def _look(self) -> None:
        while True:
            wanted = self._wanted = asyncio.get_running_loop().create_future()
            await self._look_once()
            await self._registry._sleep(AT_LEAST_S)
            pause = RESOLVE_S * self._registry._uniform(0.9, 1.1)
            await self._within(pause - AT_LEAST_S, wanted)

    async def _look_once(self) -> None:
        try:
            found = await self._ask()
        except Exception as error:  # a watch does not end, whatever it meets
            self._tell("cannot be resolved, and the addresses last known stand until it can", str(error))
            if self._stale_since is None:
                self._stale_since = self._registry._clock()
        else:
            self._tell(
                "" if found else "has no addresses: mend it at the name servers, or in the registry URL"
            )
            self._stale_since = None
            self._take(found)
        if self._known is not None:
            self.latest.publish(self._snapshot(self._known))

    async def _ask(self) -> frozenset[str]:
        """The name's addresses.

        Raises:
            OSError: There is no telling, or not yet.
        """
        asked = asyncio.ensure_future(self._registry._resolve(self._name.host))
        asked.add_done_callback(_seen)
        try:
            if not await self._within(ANSWER_S, asked):
                raise TimeoutError(f"no answer within {ANSWER_S:g} s")
            return asked.result()
        finally:
            asked.cancel()

    def _take(self, found: frozenset[str]) -> None:
        missed = (self._known or frozenset()) - found
        self._known = found | (missed - self._missed)
        self._missed = missed - self._missed

    def _snapshot(self, hosts: frozenset[str]) -> Snapshot:
        addresses = sorted(_joined(host, self._name.port) for host in hosts)
        instances = {
            address: Instance(service=self._service, instance_id=address, address=address, shard_key=address)
            for address in addresses
        }
        return Snapshot(self._service, instances, self._stale_since)

    async def _within(self, seconds: float, work: asyncio.Future[frozenset[str]]) -> bool:
        """Waits for work that goes on if it takes longer; whether it is done."""
        limit = asyncio.ensure_future(self._registry._sleep(seconds))
        try:
            await asyncio.wait((work, limit), return_when=asyncio.FIRST_COMPLETED)
        finally:
            limit.cancel()
        return work.done()

    def _tell(self, trouble: str, why: str = "") -> None:
        """Logs when trouble begins, turns into another, and ends."""
        if trouble and trouble != self._trouble:
            _log.warning("%s of service %s %s%s", self._name, self._service, trouble, why and f": {why}")
        elif self._trouble and not trouble:
            _log.info("%s of service %s has addresses again", self._name, self._service)
        self._trouble = trouble


def _seen(asked: asyncio.Future[frozenset[str]]) -> None:
    """Takes note of a failure that came in the moment when nobody waited any more."""
    if not asked.cancelled():
        asked.exception()


def _names(text: str) -> dict[str, Name]:
    start, _, listed = text.partition("?")
    if start.strip("/"):
        raise ValueError(f"registry URL: {start!r} may not stand before the ?: write {_FORM}")
    names: dict[str, Name] = {}
    for part in listed.split("&"):
        service, equals, name = part.partition("=")
        if not equals or not SERVICE_NAME.fullmatch(service):
            raise ValueError(f"registry URL: {part!r} is not service=host:port: write {_FORM}")
        if service in names:
            raise ValueError(f"registry URL: {service} is listed twice: write {_FORM}")
        names[service] = _name(service, name)
    if len(names) > MAX_NAMES:
        raise ValueError(f"registry URL: {len(names)} services are more than dns:// takes, {MAX_NAMES}")
    return names


def _name(service: str, text: str) -> Name:
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    of = f"registry URL: {text!r} of {service}"
    if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise ValueError(f"{of} has no port within 1 to 65535: write {_FORM}")
    if ":" in host and bare == host:
        raise ValueError(f"{of} has too many colons; an IPv6 address stands in brackets: [::1]:50051")
    if not (_is_address(bare) if bare != host else _is_host(host)):
        raise ValueError(f"{of} has neither a name nor an address before its port: write {_FORM}")
    return Name(bare, int(port))


def _is_host(text: str) -> bool:
    labels = text.removesuffix(".").split(".")
    if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        return False
    return not labels[-1].isdecimal() or _is_address(text)  # 10.0.0.300 is no name


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
