"""Faults on purpose: calls that are late, fail, or get no answer, as if their instance or the way to it were at fault.

A fault meets a call where real ones do: after an instance was picked and the call was signed for it, in place of the
connection to that instance. So retries, gates, hedges, policies and deadlines take it for real. A mesh that is not
under test has nothing of this in it: the connections of one that is are wrapped.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Self

from meshkit.errors import MeshError
from meshkit.instance import Instance
from meshkit.testing.fault import Act, Fault, aborting, delaying, dropping
from meshkit.testing.faulty_link import FaultyLink
from meshkit.testing.targets import Known, Target

if TYPE_CHECKING:
    from meshkit.balancing.endpoint import Dial, Link
    from meshkit.balancing.pool import EndpointPool
    from meshkit.mesh import Mesh
    from meshkit.testing.clock import Clock


class Faults:
    """Makes faults for the calls of one or more meshes, until it is closed.

        with Faults(mesh) as faults:
            with faults.abort("brain/Search", Unavailable("down"), share=0.2) as fault:
                ...
            assert fault.hits

    `LocalMesh.faults` is one for all calls in it. Several faults may hit one attempt: they act in the order in which
    they were made, so that one can be delayed and then fail. A call that is made again, or hedged, can be hit again.

    A target is `service`, or `service/Method` with the method's name in the proto or in the typed client. It must be
    known when the fault is made: to a `LocalMesh` are known the services that it runs, to any other mesh those that it
    has a channel or a client for. With all kinds of fault, `instance` is one instance (its id, or the instance) instead
    of whichever was picked; `share` is the share of attempts that are hit, which are drawn by the seed and so the same
    in each run; `times` is how many are hit at most.

    Args:
        *meshes: Whose calls.
        seed: Of the randomness by which shares are drawn.
        clock: What delays are measured by; the event loop's own time by default.
        known: What services there are; by default those that the meshes have channels or clients for.
    """

    def __init__(
        self,
        *meshes: Mesh,
        seed: int = 0,
        clock: Clock | None = None,
        known: Callable[[], Mapping[str, Known]] | None = None,
    ) -> None:
        self._seed = seed
        self._clock = clock
        self._known = known or self._of_pools
        self._made = 0
        self._active: list[Fault] = []
        self._meshes: list[tuple[Mesh, Dial]] = []
        self._pools: list[tuple[EndpointPool, Dial]] = []
        for mesh in meshes:
            self.attach(mesh)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all faults, and leaves the meshes alone."""
        self.clear()
        for mesh, dial in reversed(self._meshes):
            mesh.dial = dial
        for pool, dial in reversed(self._pools):
            pool.dial = dial
        self._meshes.clear()
        self._pools.clear()

    def clear(self) -> None:
        """Ends all faults."""
        for fault in self._active:
            fault.end()
        self._active.clear()

    def attach(self, mesh: Mesh) -> None:
        """Has the faults hit the calls of a mesh too."""
        self._meshes.append((mesh, mesh.dial))
        mesh.dial = self._dialling(mesh.dial)
        for pool in mesh.pools.values():
            self._pools.append((pool, pool.dial))
            pool.dial = self._dialling(pool.dial)
            for endpoint in pool.endpoints.values():
                endpoint.link = self._wrapped(endpoint.link, endpoint.instance)

    def delay(
        self,
        target: str,
        seconds: float,
        *,
        instance: str | Instance = "",
        share: float = 1.0,
        times: int | None = None,
    ) -> Fault:
        """Sends attempts that much later. One whose deadline comes first fails with `DeadlineExceeded`, unsent.

        By a test's clock no real time passes; what passes by it is taken off the call's deadline.

        Args:
            target: Which calls, as `service` or `service/Method`.
            seconds: How much later.
            instance: Only those to this instance.
            share: Share of them that is hit.
            times: How many are hit at most.

        Raises:
            ValueError: There is no such target, or a number makes no sense.
        """
        return self._make(target, delaying(seconds), instance, share, times)

    def abort(
        self,
        target: str,
        error: MeshError | type[MeshError],
        *,
        after: int | None = None,
        unprocessed: bool = False,
        instance: str | Instance = "",
        share: float = 1.0,
        times: int | None = None,
    ) -> Fault:
        """Fails attempts with an error, which says of the instance that was picked that it came from there.

        Args:
            target: Which calls, as `service` or `service/Method`.
            error: What they fail with. Its `unprocessed` and `pushback` count as if the instance had sent them.
            after: Replies that reach the caller first. By default the attempt is not sent, and its handler never runs;
                with 0 it is, and the first reply is lost, as when an instance dies between its work and its answer.
                The one reply of a method that has one is always lost.
            unprocessed: Whether the error says that no handler saw the call, as that of an instance does that drains:
                then any method is tried again.
            instance: Only those to this instance.
            share: Share of them that is hit.
            times: How many are hit at most.

        Raises:
            ValueError: There is no such target, or a number makes no sense.
            TypeError: What they are to fail with is no error of the mesh.
        """
        return self._make(target, aborting(error, after, unprocessed), instance, share, times)

    def drop(
        self,
        target: str,
        *,
        instance: str | Instance = "",
        share: float = 1.0,
        times: int | None = None,
    ) -> Fault:
        """Lets attempts have no answer: they are not sent, and wait for their deadline, or until they are given up.

        One that has no deadline waits until the instance leaves the mesh. While all calls to an instance are dropped,
        it does not answer when it is asked for a sign of life either.

        Args:
            target: Which calls, as `service` or `service/Method`.
            instance: Only those to this instance.
            share: Share of them that is hit.
            times: How many are hit at most.

        Raises:
            ValueError: There is no such target, or a number makes no sense.
        """
        return self._make(target, dropping, instance, share, times, silent=times is None)

    def _make(
        self,
        target: str,
        act: Act,
        instance: str | Instance,
        share: float,
        times: int | None,
        *,
        silent: bool = False,
    ) -> Fault:
        instance_id = instance.instance_id if isinstance(instance, Instance) else instance
        meant = Target.of(target, instance_id, self._known())
        self._made += 1
        uniform = random.Random(
            f"{self._seed} {self._made}"
        ).random  # its own: no fault changes another's draws
        fault = Fault(meant, act, share=share, times=times, uniform=uniform, silent=silent)
        self._active = [each for each in self._active if not each.ended]
        self._active.append(fault)
        return fault

    def _of_pools(self) -> dict[str, Known]:
        found: dict[str, Known] = {}
        for mesh, _ in self._meshes:
            for service, pool in mesh.pools.items():
                instances = [each.instance for each in pool.endpoints.values()]
                contracts = {name for each in instances for name in each.contracts}
                found[service] = Known(contracts, [each.instance_id for each in instances])
        return found

    def _dialling(self, dial: Dial) -> Dial:
        def dialled(instance: Instance, on_change: Callable[[], None]) -> Link:
            return self._wrapped(dial(instance, on_change), instance)

        return dialled

    def _wrapped(self, link: Link, instance: Instance) -> Link:
        return FaultyLink(link, instance, lambda: self._active, self._clock)
