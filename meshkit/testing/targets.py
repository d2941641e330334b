"""Which calls a fault is for: names as a test writes them, held against what there is."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from google.protobuf.descriptor_pool import Default

from meshkit.client import Client
from meshkit.naming import method_names
from meshkit.pipeline import Exchange


@dataclass(frozen=True, slots=True)
class Known:
    """What there is of a service.

    Attributes:
        contracts: Full names of its contracts.
        instances: Ids of its instances.
    """

    contracts: Collection[str] = ()
    instances: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Target:
    """Some calls.

    Attributes:
        service: Name of the service that is called.
        method: Name of the method in the proto; empty for all.
        instance: Id of the instance that was picked; empty for any.
    """

    service: str
    method: str = ""
    instance: str = ""

    @classmethod
    def of(cls, text: str, instance: str, known: Mapping[str, Known]) -> Self:
        """The calls that a test means.

        Args:
            text: `service`, or `service/Method`; the method as the proto or as the typed client calls it.
            instance: Id of an instance; empty for any.
            known: The services that there are. Methods of a contract that is not loaded in this process, and instances
                that come later, cannot be known.

        Raises:
            ValueError: There is no such service, method or instance.
        """
        service, slash, method = text.partition("/")
        if service not in known:
            raise ValueError(_unknown(f"there is no service {service!r} to call", service, known))
        if slash:
            method = _method(service, method, known[service].contracts)
        if instance and instance not in known[service].instances:
            raise ValueError(
                _unknown(f"{service} has no instance {instance!r}", instance, known[service].instances)
            )
        return cls(service, method, instance)

    def includes(self, exchange: Exchange) -> bool:
        """Whether an attempt, for which an instance has been picked, is one of them."""
        return (
            exchange.call.service == self.service
            and (not self.method or exchange.method.name == self.method)
            and (not self.instance or exchange.endpoint.instance.instance_id == self.instance)
        )

    def __str__(self) -> str:
        name = f"{self.service}/{self.method}" if self.method else self.service
        return f"{name} on {self.instance}" if self.instance else name


def _method(service: str, method: str, contracts: Iterable[str]) -> str:
    """The method's name in the proto."""
    loaded = [found for found in map(_contract, contracts) if found is not None]
    if not loaded and method:
        return method
    names: dict[str, str] = {}
    for contract in loaded:
        for rpc, attribute in method_names([each.name for each in contract.methods], dir(Client)).items():
            names[attribute] = names[rpc] = rpc
    if method not in names:
        raise ValueError(
            _unknown(f"{service} has no method {method!r}", method, dict.fromkeys(names.values()))
        )
    return names[method]


def _contract(name: str) -> Any:
    try:
        return Default().FindServiceByName(name)
    except KeyError:
        return None


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    there = list(known)
    near = difflib.get_close_matches(name, there, n=1, cutoff=0.5)
    if near:
        return f"{what}; did you mean {near[0]}?"
    return f"{what}; there is {', '.join(there) or 'none yet'}"
