"""A limit on calls at once that tenants share: none takes from another what that one needs.

While there is room everybody gets in. When there is none, calls wait in turn, and who holds most gives way. Turns are
taken by projects, and within a project by its tenants, so that a project that acts for many tenants has no more than
another. Only those count that have calls under way or waiting: there is nothing to set up, and nothing to keep.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import exp

from meshkit.call import CRITICALITIES, Call, Criticality
from meshkit.errors import MeshError, ResourceExhausted

MAX_WAITING = 128
"""Calls that wait at most; a smaller limit lets no more wait than it lets in."""

KNOWN = 1024
"""Tenants without a call that are remembered at most."""

HEADROOM = 8
"""How many times what is left free one tenant may hold where calls are not waited for; its project twice as much."""

PATIENCE = 3.0
"""How many times as long as calls take one may wait."""

UNKNOWN_S = 0.1
LEAST_PATIENCE_S = 0.05
"""Seconds that a call may wait while nobody knows how long calls take; and where they are short."""

RECENT_S = 1.0
"""Seconds over which is averaged how many places somebody held."""

LATE_S = 0.005
"""Seconds past which a timer says that the loop stood still."""

CRITICAL_ROOM = 4
"""How many times as many calls may wait where the newest is critical: they come in bursts, and are served first."""

LEAST_PUSHBACK_S, MOST_PUSHBACK_S = 0.05, 1.0
"""Seconds after which a caller that is turned away is asked to come again; about as long as calls take in between."""

WEIGHT = 1 / 32
"""Share of the newest call in the average of how long calls take."""


@dataclass(slots=True, eq=False)
class Party:
    """Who takes turns: a project, or a tenant of one.

    Attributes:
        running: Calls of it that hold a place.
        waiting: Calls of it that wait for one.
        had: Places that it held on average of late, as of `at`; counted only while others wait.
        at: When that was worked out.
    """

    running: int = 0
    waiting: int = 0
    had: float = 0.0
    at: float = 0.0

    def recently(self, now: float) -> float:
        """Places that it held on average of late, as of now."""
        return self.had * exp((self.at - now) / RECENT_S) if self.had else 0.0

    def charge(self, seconds: float, now: float) -> None:
        """Takes note of a place that it held."""
        self.had = self.recently(now) + seconds / RECENT_S
        self.at = now


@dataclass(slots=True, eq=False)
class Project(Party):
    """A project; `queue` has those of its tenants that wait."""

    queue: dict[Tenant, None] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Tenant(Party):
    """A tenant of a project; `lines` has its calls that wait, by criticality, the oldest first."""

    project: Project = field(default_factory=Project)
    lines: dict[Criticality, dict[Place, None]] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Place:
    """What a call waits for: whether it gets in."""

    tenant: Tenant
    criticality: Criticality
    granted: asyncio.Future[bool]
    timer: asyncio.TimerHandle | None = None


class FairLimit:
    """Lets so many calls in at once.

    A place that becomes free goes to the project that holds the fewest, now and on average of late, and within it to
    such a tenant; there to the most critical call, and of these to the oldest. No more wait than get in, but of
    critical ones; past that the call goes that would be served last. Nor does a call wait for more than three times as
    long as calls take, nor when its caller would not live to see the answer. So an overload about doubles how long a
    call takes, all places are taken all the time, and who calls now and then has what it wants, in bursts too.

    Where calls are not waited for, since they are long, no tenant may hold more than eight times what is left free, so
    that one who comes later finds room (dynamic thresholds: Choudhury and Hahne, 1998). It matters from nine places on.

    Args:
        limit: Calls at once; 0 for none.
        what: What it limits, for errors.
        waits: Whether calls wait for a place.
        clock: A monotonic clock, in seconds.
        uniform: Random number between two bounds.

    Attributes:
        limit: Calls at once at most; `change` changes it.
        running: Calls that hold a place.
        waiting: Calls that wait for one.
        refused: Calls that were turned away.
        average: Seconds for which calls hold their place, on average of late; 0.0 until one ended.
    """

    def __init__(
        self,
        limit: int,
        *,
        what: str = "calls",
        waits: bool = True,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.limit = limit
        self.running = 0
        self.waiting = 0
        self.refused = 0
        self.average = 0.0
        self.clock = clock
        self._what = what
        self._waits = waits
        self._uniform = uniform
        self._projects: dict[str, Project] = {}
        self._tenants: dict[tuple[str, str], Tenant] = {}
        self._queue: dict[Project, None] = {}

    def enter(self, call: Call) -> Tenant | None:
        """Takes a place if there is one; who did leaves it with `leave`."""
        subject = call.subject
        key = (subject.project if subject is not None else "", call.tenant)
        tenant = self._tenants.get(key) or self._meet(*key)
        project, free = tenant.project, self.limit - self.running
        if free <= 0:
            return None
        if not self._waits and (tenant.running >= HEADROOM * free or project.running >= 2 * HEADROOM * free):
            return None
        self.running += 1
        tenant.running += 1
        project.running += 1
        return tenant

    async def turn(self, call: Call) -> Tenant:
        """Takes a place when it is the call's turn.

        Raises:
            ResourceExhausted: It does not get one in time: `OVERLOADED`, or `SHARE_EXCEEDED` where others go first.
        """
        subject = call.subject
        key = (subject.project if subject is not None else "", call.tenant)
        tenant = self._tenants.get(key) or self._meet(*key)
        patience = self._patience(call)
        if patience <= 0 or not self._make_room(tenant, call.criticality):
            raise self._refusal(tenant)
        loop = asyncio.get_running_loop()
        place = Place(tenant, call.criticality, loop.create_future())
        self._line_up(place)
        place.timer = loop.call_later(patience, self._tire, place, loop, loop.time() + patience, patience)
        try:
            granted = await place.granted
        except asyncio.CancelledError:
            if not place.granted.cancelled() and place.granted.result():
                self.leave(tenant)
            self._quit(place)
            raise
        if not granted:
            raise self._refusal(tenant)
        return tenant

    def leave(self, tenant: Tenant, seconds: float | None = None) -> None:
        """Gives a place back.

        Args:
            tenant: Whose it was.
            seconds: For how long; None where no call was made.
        """
        self.running -= 1
        tenant.running -= 1
        tenant.project.running -= 1
        if seconds is not None:
            self.average += (seconds - self.average) * (WEIGHT if self.average else 1.0)
        if self.waiting:
            now = self.clock()
            for party in (tenant, tenant.project):
                party.charge(seconds or 0.0, now)
            self._serve()

    def change(self, limit: int) -> None:
        """Sets another limit. With a lower one nobody is put out: fewer get in until it holds."""
        self.limit = limit
        self._serve()

    def _serve(self) -> None:
        """Gives free places to those that wait."""
        now = self.clock()

        def turn(party: Party) -> float:
            return party.running + party.recently(now)

        while self.waiting and self.running < self.limit:
            tenant = min(min(self._queue, key=turn).queue, key=turn)
            place = next(iter(next(tenant.lines[each] for each in CRITICALITIES if tenant.lines.get(each))))
            self._quit(place)
            if not place.granted.done():
                self.running += 1
                tenant.running += 1
                tenant.project.running += 1
                place.granted.set_result(True)

    def _make_room(self, tenant: Tenant, criticality: Criticality) -> bool:
        """Whether a call may wait; where too many do, one goes that would be served later, if there is one."""
        room = min(self.limit, MAX_WAITING) if self._waits else 0
        if self.waiting < room * (CRITICAL_ROOM if criticality == "critical" else 1):
            return True
        if not room:
            return False
        place = self._last(tenant) or _less_critical(tenant, criticality)
        if place is not None:
            self._send_away(place)
        return place is not None

    def _last(self, tenant: Tenant) -> Place | None:
        """The call of another tenant that would be served last, if a further one of this tenant would go before."""
        now = self.clock()

        def weight(party: Party) -> float:
            return party.running + party.waiting + party.recently(now)

        project = max(self._queue, key=weight)
        if project is not tenant.project and weight(tenant.project) + 1 >= weight(project):
            return None
        heaviest = max(project.queue, key=weight)
        if heaviest is tenant or (project is tenant.project and weight(tenant) + 1 >= weight(heaviest)):
            return None
        return next(reversed(next(heaviest.lines[each] for each in _BACKWARDS if heaviest.lines.get(each))))

    def _patience(self, call: Call) -> float:
        """Seconds that the call may wait; its caller must have as much time left as calls take."""
        usual = self.average * PATIENCE if self.average else UNKNOWN_S
        return min(max(usual, LEAST_PATIENCE_S), call.deadline.remaining() - self.average)

    def _line_up(self, place: Place) -> None:
        tenant, project = place.tenant, place.tenant.project
        tenant.lines.setdefault(place.criticality, {})[place] = None
        project.queue[tenant] = None
        self._queue[project] = None
        tenant.waiting += 1
        project.waiting += 1
        self.waiting += 1

    def _quit(self, place: Place) -> None:
        """Takes a call out of its line, if it is in one still: its caller may have given up a moment ago."""
        if place.timer is None:
            return
        place.timer.cancel()
        place.timer = None
        tenant, project = place.tenant, place.tenant.project
        del tenant.lines[place.criticality][place]
        tenant.waiting -= 1
        project.waiting -= 1
        self.waiting -= 1
        if not tenant.waiting:
            del project.queue[tenant]
        if not project.waiting:
            del self._queue[project]

    def _send_away(self, place: Place) -> None:
        self._quit(place)
        if not place.granted.done():
            place.granted.set_result(False)

    def _tire(self, place: Place, loop: asyncio.AbstractEventLoop, due: float, respite: float) -> None:
        """Sends a call away that waited for long enough; while the loop stood still, no place could become free.

        Args:
            place: What it waits for.
            loop: The event loop.
            due: When it should have been sent away, by the clock of the loop.
            respite: Seconds that it may be left for longer, where the loop stands still again and again.
        """
        late = min(loop.time() - due, respite)
        if late > LATE_S:
            place.timer = loop.call_later(late, self._tire, place, loop, loop.time() + late, respite - late)
        else:
            self._send_away(place)

    def _refusal(self, tenant: Tenant) -> MeshError:
        """What a call is told that gets no place."""
        self.refused += 1
        others = self.running - tenant.running + self.waiting - tenant.waiting
        lone = not others or tenant.running * 2 < self.limit
        error = ResourceExhausted(
            f"the instance serves {self.limit} {self._what} at once, and "
            f"{'has as many' if lone else 'this tenant has its share of them'}",
            reason="OVERLOADED" if lone else "SHARE_EXCEEDED",
        )
        usual = min(max(self.average, LEAST_PUSHBACK_S), MOST_PUSHBACK_S)
        error.pushback = usual * self._uniform(0.5, 1.5)
        error.unprocessed = True
        return error

    def _meet(self, project: str, tenant: str) -> Tenant:
        """Makes a tenant known; those without a call are forgotten once there are too many."""
        if len(self._tenants) >= max(KNOWN, 2 * (self.running + self.waiting)):
            self._tenants = {key: each for key, each in self._tenants.items() if each.running or each.waiting}
            self._projects = {
                name: each for name, each in self._projects.items() if each.running or each.waiting
            }
        owner = self._projects.setdefault(project, Project())
        found = self._tenants[project, tenant] = Tenant(project=owner)
        return found


_BACKWARDS = CRITICALITIES[::-1]


def _less_critical(tenant: Tenant, criticality: Criticality) -> Place | None:
    """The newest of the tenant's least critical calls that wait, if it is less critical than that."""
    for each in _BACKWARDS[: _BACKWARDS.index(criticality)]:
        if line := tenant.lines.get(each):
            return next(reversed(line))
    return None
