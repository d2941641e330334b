"""`meshkit call`: any method of any service of the mesh, without its protos."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshkit.call import Criticality
from meshkit.cli.finding import require_known, services_of, settings
from meshkit.cli.nearest import did_you_mean
from meshkit.cli.output import ExitCode, Failure, note, say, show_json
from meshkit.cli.piping import until_nobody_reads
from meshkit.errors import MeshError, PermissionDenied, Unimplemented
from meshkit.instance import SERVICE_NAME, State
from meshkit.metadata import INSTANCE
from meshkit.naming import service_name

if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor
    from google.protobuf.message import Message

    from meshkit.client import CallOptions, Invoker
    from meshkit.mesh import Mesh
    from meshkit.transport.reflecting import Contracts


_OF_EACH = frozenset({"meshkit.v1.MeshService"})
"""What every instance serves beside its own contract; it is called by its full name."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be called.

    Attributes:
        service: Name of the service.
        contract: Full name of the gRPC service; empty where the service's own is meant.
        method: Name of the method; empty where the methods are to be listed.
    """

    service: str
    contract: str
    method: str


@dataclass(frozen=True, slots=True)
class Manner:
    """How it is to be called."""

    options: CallOptions
    compact: bool
    verbose: bool


def call(
    target: Annotated[
        str,
        typer.Argument(
            metavar="SERVICE[/METHOD]", help="Such as greeter/Greet, or greeter alone to list its methods."
        ),
    ],
    data: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="JSON", help="The request; several for a stream of them; - for standard input."
        ),
    ] = None,
    source: Annotated[
        str,
        typer.Option(
            "--data", "-d", metavar="JSON|@FILE|-", help="The request: as text, in a file, or from stdin."
        ),
    ] = "",
    tenant: Annotated[str | None, typer.Option(help="For which tenant; CU_TENANT by default.")] = None,
    timeout: Annotated[float | None, typer.Option(min=0.001, help="Seconds that the call may take.")] = None,
    criticality: Annotated[Criticality | None, typer.Option(help="How much the call matters.")] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option("--metadata", "-m", metavar="KEY=VALUE", help="Further metadata; repeatable."),
    ] = None,
    name: Annotated[str, typer.Option("--as", metavar="NAME", help="Name under which to call.")] = "",
    service: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Who serves it, where that does not follow from the contract's name."
        ),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON (as calls do anyway).")] = False,
    compact: Annotated[bool, typer.Option("--compact", help="Print a message a line.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say who answered, and how fast.")] = False,
) -> None:
    """Calls a method of a service and prints what it answers, as JSON.

    Example: meshkit call greeter/Greet '{"name": "Ada"}'

    The instance is found in the registry, its contract by reflection (which
    takes the permission mesh:inspect), and the call is signed as any other of
    the mesh. METHOD may be given in full, as
    /greeter.v1.GreeterService/Greet. For a method that takes a stream of
    requests, a file or standard input holds a JSON document a line.

    Exits with 1 where the call failed, 2 where the service has no such method
    or the request is none.
    """
    wanted = parse_target(target, service)
    sources = [*(data or ()), *([source] if source else ())]
    options: CallOptions = {"metadata": dict(_pair(text) for text in metadata or ()), "trailers": {}}
    if tenant == "":
        raise _wrong("--tenant is empty: name a tenant, or leave it out for that of CU_TENANT")
    if tenant is not None:
        options["tenant"] = tenant
    if timeout is not None:
        options["timeout"] = timeout
    if criticality is not None:
        options["criticality"] = criticality
    with until_nobody_reads():
        asyncio.run(_call(wanted, sources, Manner(options, compact, verbose), name, as_json))


def parse_target(text: str, service: str = "") -> Target:
    """Reads `SERVICE`, `SERVICE/METHOD`, or a gRPC path.

    Args:
        text: The words of the command line.
        service: Name of the service, where it is not to follow from the text.

    Raises:
        Failure: It is none of these.
    """
    named, _, method = text.removeprefix("/").partition("/")
    contract = named if "." in named else ""
    found = service or (service_name(named) if contract else named)
    if not SERVICE_NAME.fullmatch(found) or "/" in method:
        form = "SERVICE/METHOD, such as greeter/Greet or /greeter.v1.GreeterService/Greet"
        raise Failure(f"{text!r} is not {form}", code=ExitCode.USAGE)
    return Target(found, contract, method)


async def _call(target: Target, sources: Sequence[str], manner: Manner, name: str, as_json: bool) -> None:
    from meshkit.mesh import Mesh

    async with Mesh(await settings(), name=name) as mesh:
        try:
            contracts = await _contracts(mesh, target.service, manner.options.get("timeout"))
            if not target.method:
                _list(target, contracts, as_json=as_json)
                return
            method = find_method(target, contracts)
            await _Calling(mesh, target, method, contracts, manner).run(sources)
        except MeshError as error:
            raise Failure(told(error)) from None


def told(error: MeshError) -> str:
    """All that an error says: status, text, reason, details, and who said so."""
    facts = {"reason": error.reason, **error.details}
    if error.instance is not None:
        facts["instance"] = error.instance
    if error.pushback is not None:
        facts["try again in"] = f"{error.pushback:g} s"
    width = max(map(len, facts))
    return "\n".join((f"{error.code}: {error.message}", *(f"  {key:{width}}  {facts[key]}" for key in facts)))


async def _contracts(mesh: Mesh, service: str, timeout: float | None) -> Contracts:
    """Asks an instance what it serves; waits for one where there is none yet.

    Raises:
        Failure: The registry knows no such service, or we may not ask.
        MeshError: No instance can be asked.
    """
    from meshkit.inspection import PERMISSION
    from meshkit.transport.reflecting import reflect

    require_known(service, await services_of(mesh.registry), mesh.registry)
    seconds = timeout if timeout is not None else mesh.config.default_timeout_s
    if not any(each.state is State.SERVING for each in await mesh.instances(service)):
        note(f"waiting up to {seconds:g} s for an instance of {service} …")
    try:
        channel = mesh.channel(service, permissions=(PERMISSION,))
        return await reflect(channel, service, timeout=seconds)
    except PermissionDenied as error:
        why = f"to learn its contract by reflection takes the permission {PERMISSION}"
        raise Failure(f"{told(error)}\n  {why}") from None
    except Unimplemented as error:
        why = "it has no gRPC reflection, from which this command learns its contract (grpcio-reflection adds it)"
        raise Failure(f"{told(error)}\n  {why}") from None


def find_method(target: Target, contracts: Contracts) -> MethodDescriptor:
    """Finds the method that is meant.

    Raises:
        Failure: There is none, or there are several.
    """
    services = contracts.services
    if target.contract and target.contract not in services:
        near = did_you_mean(target.contract, services)
        there = f"it serves {', '.join(services)}"
        raise _wrong(f"{target.service} does not serve {target.contract}{near}\n  {there}")
    searched = [services[name] for name in _meant(target, contracts)]
    found = [
        each.methods_by_name[target.method] for each in searched if target.method in each.methods_by_name
    ]
    if len(found) == 1:
        return found[0]
    if found:
        paths = " or ".join(f"/{each.containing_service.full_name}/{each.name}" for each in found)
        raise _wrong(f"{target.service} has several methods {target.method}: write {paths}")
    names = [name for each in searched for name in each.methods_by_name]
    near = did_you_mean(target.method, names)
    raise _wrong(f"{target.service} has no method {target.method}{near}\n  it has {', '.join(names)}")


def _meant(target: Target, contracts: Contracts) -> list[str]:
    """The contracts that are meant: the one that is named, else those of the service itself."""
    if target.contract:
        return [name for name in contracts.services if name == target.contract]
    return [name for name in contracts.services if name not in _OF_EACH]


def _list(target: Target, contracts: Contracts, *, as_json: bool) -> None:
    chosen = [contracts.services[name] for name in _meant(target, contracts)]
    methods = [method for each in chosen for method in each.methods]
    if as_json:
        show_json([_as_json(method) for method in methods])
        return
    for each in chosen:
        say(each.full_name)
        width = max((len(method.name) for method in each.methods), default=0)
        for method in each.methods:
            say(f"  {method.name:{width}}  {_takes(method)} → {_gives(method)}")


def _takes(method: MethodDescriptor) -> str:
    return f"{'stream ' if method.client_streaming else ''}{_type(method, method.input_type.full_name)}"


def _gives(method: MethodDescriptor) -> str:
    return f"{'stream ' if method.server_streaming else ''}{_type(method, method.output_type.full_name)}"


def _type(method: MethodDescriptor, full_name: str) -> str:
    return full_name.removeprefix(f"{method.containing_service.file.package}.")


def _as_json(method: MethodDescriptor) -> dict[str, object]:
    return {
        "path": f"/{method.containing_service.full_name}/{method.name}",
        "request": method.input_type.full_name,
        "response": method.output_type.full_name,
        "streams_requests": bool(method.client_streaming),
        "streams_responses": bool(method.server_streaming),
    }


class _Calling:
    """One call: messages in, messages out."""

    def __init__(
        self, mesh: Mesh, target: Target, method: MethodDescriptor, contracts: Contracts, manner: Manner
    ) -> None:
        self._mesh = mesh
        self._service = target.service
        self._method = method
        self._pool = contracts.pool
        self._manner = manner
        self._begun = time.monotonic()

    async def run(self, sources: Sequence[str]) -> None:
        from meshkit.cli.documents import one, parse

        method, options = self._method, self._manner.options
        request: Any
        if method.client_streaming:
            request = self._requests(sources)
        else:
            request = parse(one(sources), method.input_type, self._pool)
        invoker = self._invoker()
        self._begun = time.monotonic()
        if method.server_streaming:
            begin = invoker.stream_stream if method.client_streaming else invoker.unary_stream
            count = 0
            async with begin(method, request, options) as replies:
                async for reply in replies:
                    self._print(reply)
                    count += 1
                self._tell(replies.instance, f"{count} messages")
        else:
            ask = invoker.stream_unary if method.client_streaming else invoker.unary_unary
            self._print(await ask(method, request, options))
            self._tell(options["trailers"].get(INSTANCE), "answered")

    def _invoker(self) -> Invoker:
        """What carries calls of typed clients carries this one too: a client class of this contract is made for it."""
        from meshkit.client import Client

        class AnyClient(Client):
            contract = self._method.containing_service

            def invoker(self) -> Invoker:
                return self._invoker

        return self._mesh.client(AnyClient, service=self._service).invoker()

    async def _requests(self, sources: Sequence[str]) -> AsyncIterator[Message]:
        from meshkit.cli.documents import many, parse

        async for place, text in many(sources):
            yield parse(text, self._method.input_type, self._pool, place)

    def _print(self, message: Message) -> None:
        from meshkit.cli.documents import rendered

        say(rendered(message, self._pool, compact=self._manner.compact))
        sys.stdout.flush()

    def _tell(self, instance: str | None, what: str) -> None:
        if self._manner.verbose:
            milliseconds = (time.monotonic() - self._begun) * 1000
            note(f"{instance or self._service}: {what} in {milliseconds:.0f} ms")


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise _wrong(f"--metadata {text}: write KEY=VALUE")
    return key.lower(), value


def _wrong(message: str) -> Failure:
    return Failure(message, code=ExitCode.USAGE)
