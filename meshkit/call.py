"""The call as a service sees it, and what of it travels on to the calls that the service makes.

A handler gets a `Call`: who calls, for which tenant, how long there is. What propagates from call to call lives in one
context variable, a `Scope`; the client side reads it when it prepares an outgoing call.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

Criticality = Literal["critical", "default", "sheddable"]
"""How much a call matters when a service must turn some away; `default` where nobody says."""

CRITICALITIES: tuple[Criticality, ...] = ("critical", "default", "sheddable")

TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a tenant may be called."""

EVERYTHING = frozenset({"*"})
"""All tenants, or all permissions."""

_ids = random.Random()
"""Makes ids of traces and spans, which are no secrets: seeded by the system, it needs no system call for each."""

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_VISIBLE = re.compile(r"[\x20-\x7e]*")


@dataclass(slots=True, unsafe_hash=True)
class Deadline:
    """The moment at which a call's answer is of no more use. Nobody changes one; to freeze it would double its cost.

    Attributes:
        at: That moment on `clock`, in seconds; infinite where there is none.
        clock: A monotonic clock, in seconds.
    """

    at: float = float("inf")
    clock: Callable[[], float] = field(default=time.monotonic, repr=False, compare=False)

    @classmethod
    def after(cls, seconds: float, clock: Callable[[], float] = time.monotonic) -> Deadline:
        """The deadline that many seconds from now."""
        return cls(clock() + seconds, clock)

    def remaining(self) -> float:
        """Seconds left, below 0 once it has passed, infinite where there is none."""
        return self.at - self.clock()

    @property
    def passed(self) -> bool:
        """Whether no time is left."""
        return self.at <= self.clock()


def covers(held: AbstractSet[str], wanted: str) -> bool:
    """Whether the names in `held` include `wanted`: by itself, by `*`, or by its `service:*`."""
    return wanted in held or "*" in held or f"{wanted.partition(':')[0]}:*" in held


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls: what a verified token says, cut down to what the grants of its key allow.

    Attributes:
        project: The project whose key signed.
        name: The calling service, or person, within that project (`sub` of the token).
        permissions: `service:verb`, `service:*` or `*`.
        tenants: Tenants it may act for; `*` means all.
        token_id: Id of the token (`jti`).
        expires_at: Unix time in seconds at which the token ends.
        issued_at: Unix time in seconds at which the token was made (`iat`).
    """

    project: str
    name: str
    permissions: frozenset[str] = EVERYTHING
    tenants: frozenset[str] = EVERYTHING
    token_id: str = ""
    expires_at: float = float("inf")
    issued_at: float = 0.0

    def may(self, permission: str) -> bool:
        """Whether it holds the permission `service:verb`, by itself, as `service:*`, or as `*`."""
        return covers(self.permissions, permission)

    def serves(self, tenant: str) -> bool:
        """Whether it may act for the tenant."""
        return "*" in self.tenants or tenant in self.tenants


@dataclass(slots=True, unsafe_hash=True)
class Trace:
    """Where a call stands in its distributed trace (W3C Trace Context, W3C Baggage). Nobody changes one, as a deadline.

    Attributes:
        parent: The `traceparent` of this hop.
        state: `tracestate` as it came.
        baggage: `baggage` as it came.
    """

    parent: str
    state: str = ""
    baggage: str = ""

    @property
    def trace_id(self) -> str:
        """32 lower-case hex digits that all hops share."""
        return self.parent[3:35]

    @property
    def span_id(self) -> str:
        """16 lower-case hex digits of this hop."""
        return self.parent[36:52]

    @classmethod
    def start(cls) -> Trace:
        """A new trace that nobody records: it tells in logs which calls belong together."""
        digits = _ids.randbytes(24).hex()
        return cls(f"00-{digits[:32]}-{digits[32:]}-00")

    @classmethod
    def parse(cls, parent: str, state: str = "", baggage: str = "") -> Trace:
        """The trace in a request's metadata; a new one where there is none or it is not well-formed.

        gRPC takes bytes in on the wire that it would not send on: `tracestate` or `baggage` with such goes no further.
        """
        if not _TRACEPARENT.fullmatch(parent):
            return cls.start()
        if not (state or baggage):
            return cls(parent)
        carried = (text if _VISIBLE.fullmatch(text) else "" for text in (state, baggage))
        return cls(parent, *carried)

    @property
    def sampled(self) -> bool:
        """Whether whoever began the trace records it."""
        return self.parent[53:55] not in ("", "00") and int(self.parent[53:55], 16) & 1 == 1


UNTRACED: Final = Trace("")
"""Where a call stands that is in no trace."""


class Peer:
    """Who is at the other end of the connection that a call came over.

    Under mTLS that is proved by its certificate. It says which program made the connection, the principal in whose
    name the call is made.

    Args:
        address: See `address`.
        spiffe_id: See `spiffe_id`.
    """

    def __init__(self, address: str = "", spiffe_id: str = "") -> None:
        self._address = address
        self._spiffe_id = spiffe_id

    @property
    def address(self) -> str:
        """Its network address, as gRPC gives it: `ipv4:10.0.0.7:41298`."""
        return self._address

    @property
    def spiffe_id(self) -> str:
        """The id in its certificate, `spiffe://<namespace>/<service>`; empty where it need not show one."""
        return self._spiffe_id

    @property
    def service(self) -> str:
        """The last part of that id, its name; empty without one. It may be of another namespace."""
        return self.spiffe_id.rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.spiffe_id} at {self.address}" if self.spiffe_id else self.address

    def __repr__(self) -> str:
        return f"Peer(address={self.address!r}, spiffe_id={self.spiffe_id!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Peer):
            return NotImplemented
        return (self.address, self.spiffe_id) == (other.address, other.spiffe_id)

    def __hash__(self) -> int:
        return hash((self.address, self.spiffe_id))


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request, as the service that serves it sees it.

    Attributes:
        service: Name of the service that serves.
        instance_id: Id of the replica that serves.
        method: Path of the method, `/package.Service/Method`.
        principal: Who made this call and proved it; None for an anonymous call of a public method.
        subject: On whose behalf it is made: the principal itself, or whom it forwarded.
        tenant: The tenant that the call is for; empty where the method asks for none.
        criticality: `critical`, `default` or `sheddable`.
        deadline: When the caller stops waiting, or the method's own cap if that is earlier.
        peer: Who is at the other end of the connection: its network address, and under mTLS its SPIFFE id.
        metadata: The request's other metadata; keys of the mesh itself are not in it.
        trace: Where the call stands in its trace.
        draining: Set when this replica is about to stop, and the call should come to an end: `is_set()`, and
            `await call.draining.wait()`. A stream that goes on is ended, with the advice to call elsewhere
            (`UNAVAILABLE`, reason `DRAINING`).
    """

    service: str
    instance_id: str = ""
    method: str = ""
    principal: Principal | None = None
    subject: Principal | None = None
    tenant: str = ""
    criticality: Criticality = "default"
    deadline: Deadline = field(default_factory=Deadline)
    peer: Peer = field(default_factory=Peer)
    metadata: Mapping[str, str | bytes] = field(default_factory=dict)
    trace: Trace = field(default_factory=Trace.start)
    draining: asyncio.Event = field(default_factory=asyncio.Event, repr=False, compare=False)
    subject_token: str = field(default="", repr=False)
    """The token to forward where this service calls others on the subject's behalf."""
    realm: str = field(default="", repr=False)
    """Where the subject's token is good: it is not forwarded by a mesh of another realm."""
    forwarded: bool = False
    """Whether the subject itself came forwarded, so that it cannot be forwarded once more without Shield."""

    @classmethod
    def for_test(
        cls,
        *,
        tenant: str = "test",
        service: str = "test",
        permissions: tuple[str, ...] = ("*",),
        timeout: float | None = None,
        **facts: Any,
    ) -> Call:
        """A call for a unit test that runs a handler without a mesh.

        Args:
            tenant: Its tenant.
            service: Name of the service under test.
            permissions: What its principal may do.
            timeout: Seconds until its deadline; none by default.
            **facts: Any other attribute of `Call`.
        """
        principal = Principal("test", "test", frozenset(permissions), frozenset({tenant} if tenant else ()))
        deadline = Deadline() if timeout is None else Deadline.after(timeout)
        base = cls(service=service, tenant=tenant, principal=principal, subject=principal, deadline=deadline)
        return replace(base, **facts)

    @classmethod
    def of(cls, **facts: Any) -> Call:
        """A call of these facts, and for the rest as `BLANK`: at a tenth of the constructor's cost."""
        call = object.__new__(cls)
        object.__setattr__(call, "__dict__", facts)
        return call

    def having(self, **facts: Any) -> Call:
        """The same call with other facts: `dataclasses.replace`, at a tenth of its cost, for what each call needs."""
        return self.knowing(facts)

    def knowing(self, facts: dict[str, Any]) -> Call:
        """The same as `having`, for facts that are the same for many calls."""
        known = vars(self) | facts
        known.pop("log", None)
        call = object.__new__(Call)
        object.__setattr__(call, "__dict__", known)
        return call

    @cached_property
    def log(self) -> FilteringBoundLogger:
        """A logger that carries the call's trace, tenant and method."""
        import structlog

        logger: FilteringBoundLogger = structlog.get_logger("meshkit.call")
        return logger.bind(
            service=self.service,
            instance=self.instance_id,
            method=self.method,
            tenant=self.tenant,
            trace_id=self.trace.trace_id,
        )


BLANK: Final = Call(service="")
"""A call of which nothing is known yet."""

for _name, _value in vars(BLANK).items():
    setattr(Call, _name, _value)  # what `Call.of` is not told


@dataclass(frozen=True, slots=True)
class Scope:
    """What an outgoing call takes from where it is made.

    Attributes:
        call: The call being served, if any: its deadline, trace and subject go on.
        tenant: Tenant set by `mesh.scope`; empty leaves the call's.
        criticality: Criticality set by `mesh.scope`; None leaves the call's.
        as_self: Call as the service alone, not on behalf of the call's subject.
        trace: The trace of work that is no call; None leaves the call's.
    """

    call: Call | None = None
    tenant: str = ""
    criticality: Criticality | None = None
    as_self: bool = False
    trace: Trace | None = None


_scope: ContextVar[Scope | Call] = ContextVar("meshkit_scope", default=Scope())  # noqa: B039  (it is frozen)


def current_scope() -> Scope:
    """The scope of the code that runs now."""
    found = _scope.get()
    return Scope(found) if isinstance(found, Call) else found


def serving(call: Call) -> None:
    """Makes `call` the one whose facts propagate, for the rest of the task that serves it."""
    _scope.set(call)


def _without_call(scope: Scope) -> Scope:
    """What is left of a scope for work that goes on when its call has been answered."""
    if scope.call is None:
        return scope
    return replace(
        scope,
        call=None,
        tenant=scope.tenant or scope.call.tenant,
        criticality=scope.criticality or scope.call.criticality,
        trace=scope.trace or scope.call.trace,
    )


@contextmanager
def scoped(
    *,
    tenant: str = "",
    criticality: Criticality | None = None,
    as_self: bool | None = None,
    detached: bool = False,
    trace: Trace | None = None,
) -> Iterator[None]:
    """Changes what outgoing calls carry within the block; see `Mesh.scope`.

    Raises:
        ValueError: The tenant or the criticality is none.
    """
    if tenant and not TENANT.fullmatch(tenant):
        raise ValueError(f"tenant {tenant!r} is not {TENANT.pattern}")
    if criticality is not None and criticality not in CRITICALITIES:
        raise ValueError(f"criticality {criticality!r} is none of {', '.join(CRITICALITIES)}")
    outer = current_scope()
    if detached:
        outer = _without_call(outer)
    inner = replace(
        outer,
        tenant=tenant or outer.tenant,
        criticality=criticality or outer.criticality,
        as_self=outer.as_self if as_self is None else as_self,
        trace=trace or outer.trace,
    )
    token = _scope.set(inner)
    try:
        yield
    finally:
        _scope.reset(token)
