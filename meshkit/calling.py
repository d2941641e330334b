"""The onion on the way out: what the mesh does for a call, layer by layer, and what a client may choose of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from meshkit.balancing import POLICIES
from meshkit.balancing.attempting import attempt, balanced
from meshkit.balancing.endpoint import Endpoint
from meshkit.balancing.policy import Policy
from meshkit.client import Client
from meshkit.errors import InvalidArgument
from meshkit.naming import method_names
from meshkit.pipeline import Exchange, Handler, Method, Middleware, compose
from meshkit.resilience.hedging import Plan, check_hedge, hedging
from meshkit.resilience.retry import Budget, retrying
from meshkit.resilience.timeouts import Patience, bounding
from meshkit.security.signing import TokenSource, presenting, signing

if TYPE_CHECKING:
    from google.protobuf.descriptor import ServiceDescriptor

    from meshkit.balancing.pool import EndpointPool


class Policies:
    """The balancing policies of one service, by name: all clients that name one share it, and what it has learnt.

    Args:
        usual: Name of the one where nobody says another.
        subset_size: How many of the instances are connected to; 0 for all.

    Raises:
        ValueError: There is none of that name, or it needs all instances and is not given them.
    """

    def __init__(self, usual: str, subset_size: int = 0) -> None:
        self._subset_size = subset_size
        self._made: dict[str, Policy] = {}
        self.usual = self.named(usual)

    def named(self, name: str) -> Policy:
        """The policy of that name.

        Raises:
            ValueError: There is none, or it needs all instances and is not given them.
        """
        found = self._made.get(name)
        if found is None:
            if name not in POLICIES:
                raise ValueError(f"no balancing policy is called {name!r}; there are {_NAMES}")
            found = self._made[name] = self._fitting(name, POLICIES[name]())
        return found

    def chosen(self, policy: str | Policy) -> Policy:
        """What a client asks for, by name or as an object of its own; the usual one where it asks for nothing.

        Raises:
            ValueError: There is none of that name, or it needs all instances and is not given them.
            TypeError: It is no policy.
        """
        if isinstance(policy, str):
            return self.named(policy) if policy else self.usual
        if isinstance(policy, type) or not all(
            callable(getattr(policy, each, None)) for each in ("pick", "done")
        ):
            raise TypeError(
                f"policy={policy!r} is none: give a name, which is one of {_NAMES}, or an object with the methods "
                "pick and done"
            )
        return self._fitting(type(policy).__name__, policy)

    def _fitting(self, name: str, policy: Policy) -> Policy:
        """The policy, if what callers are connected to is enough for it."""
        if self._subset_size and getattr(policy, "whole_pool", False):
            raise ValueError(
                f"the balancing policy {name} chooses among all instances, and CU_LB_SUBSET_SIZE="
                f"{self._subset_size} connects each caller to a part of them, so that callers would not agree: "
                "unset it, or use another policy"
            )
        return policy


_NAMES = ", ".join(sorted(POLICIES))


@dataclass(frozen=True, slots=True)
class Choices:
    """What a client chooses for its calls.

    Attributes:
        policy: How an instance is picked: a name, or an object; empty for the usual one.
        hedged: Paths of the methods that are hedged.
        patience: How long the messages of streams are waited for.
    """

    policy: str | Policy = ""
    hedged: frozenset[str] = frozenset()
    patience: Patience = field(default_factory=Patience)


def onion(
    pool: EndpointPool,
    policies: Policies,
    tokens: TokenSource,
    budget: Budget,
    choices: Choices,
    watching: tuple[Middleware, ...] = (),
) -> Handler:
    """What carries a client's calls: its layers around the attempt.

    Args:
        pool: The endpoints of the service.
        policies: Those of the service.
        tokens: Where the tokens come from that calls present.
        budget: What retries and hedges draw on.
        choices: What the client chooses.
        watching: Layers that see each call with all its attempts.

    Raises:
        ValueError: There is no such policy, or it needs all instances and is not given them.
        TypeError: What is to be the policy is none.
    """
    return compose((*watching, *layers(pool, policies, tokens, budget, choices)), attempt)


def straight(endpoint: Endpoint, tokens: TokenSource, watching: tuple[Middleware, ...] = ()) -> Handler:
    """What carries calls to one instance: nobody else is picked, its gate is ignored, nothing is made once more.

    Args:
        endpoint: The instance.
        tokens: Where the tokens come from that calls present.
        watching: Layers that see each call.
    """

    def addressed(next: Handler) -> Handler:
        def sent(exchange: Exchange) -> Awaitable[None]:
            exchange.endpoint = endpoint
            return next(exchange)

        return sent

    return compose((*watching, bounding(Patience()), presenting(tokens), addressed, signing()), attempt)


def layers(
    pool: EndpointPool, policies: Policies, tokens: TokenSource, budget: Budget, choices: Choices
) -> tuple[Middleware, ...]:
    """The layers of a client's calls, outermost first; see `onion`."""
    found = [retrying(budget)]
    if choices.hedged:
        plan = Plan(choices.hedged, budget, pool.outliers.latencies, _elsewhere(pool), pool.clock)
        found.append(hedging(plan))
    found += [bounding(choices.patience), presenting(tokens)]
    return (*found, picking(pool, policies, choices.policy), signing())


def picking(pool: EndpointPool, policies: Policies, policy: str | Policy) -> Middleware:
    """The layer that picks an endpoint, by another policy where the call names one."""
    chosen = policies.chosen(policy)

    def wrap(next: Handler) -> Handler:
        usual = balanced(pool, chosen)(next)
        others: dict[str, Handler] = {}

        def picked(exchange: Exchange) -> Awaitable[None]:
            name = exchange.policy
            if not name:
                return usual(exchange)
            if name not in others:
                others[name] = balanced(pool, _of_call(policies, name))(next)
            return others[name](exchange)

        return picked

    return wrap


def _of_call(policies: Policies, name: str) -> Policy:
    if not isinstance(name, str):
        raise InvalidArgument(
            f"policy={name!r}: a call chooses a policy by its name, {_NAMES}; an object is for the whole client",
            reason="POLICY_UNKNOWN",
        )
    try:
        return policies.named(name)
    except ValueError as error:
        reason = "POLICY_UNFIT" if name in POLICIES else "POLICY_UNKNOWN"
        raise InvalidArgument(str(error), reason=reason) from None


def _elsewhere(pool: EndpointPool) -> Callable[[Exchange], bool]:
    """Whether somebody could take a call who was not given it yet."""

    def elsewhere(exchange: Exchange) -> bool:
        return any(each.instance.instance_id not in exchange.tried for each in pool.selection().everywhere)

    return elsewhere


def methods_of(contract: ServiceDescriptor) -> dict[str, Method]:
    """The methods of a contract, each under its own name and under that of the client's method."""
    methods = {each.name: Method.of(each) for each in contract.methods}
    in_python = method_names(methods, dir(Client))
    return {in_python[name]: method for name, method in methods.items()} | methods


def hedged(
    names: Collection[str], known: Callable[[str], Method | None], among: Collection[str] = ()
) -> frozenset[str]:
    """The paths of the methods that are to be hedged.

    Args:
        names: What the user calls them.
        known: Finds a method.
        among: What methods there are, for the message.

    Raises:
        ValueError: One of them is not known, or cannot be hedged.
        TypeError: The names are no collection.
    """
    if isinstance(names, str):
        raise TypeError(f"hedge={names!r}: give a list of methods")
    paths = set()
    for name in names:
        method = known(name)
        if method is None:
            there = (
                f"there are {', '.join(among)}"
                if among
                else "no contract that is loaded in this process has it"
            )
            raise ValueError(f"hedge: {name!r} is no method that is known: {there}")
        check_hedge(method)
        paths.add(method.path)
    return frozenset(paths)
