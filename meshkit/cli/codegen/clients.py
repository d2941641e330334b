"""The source of a typed client: a class for each service of a proto, a snake_case method for each RPC."""

from __future__ import annotations

import keyword
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FileDescriptorProto,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)

from meshkit.cli.codegen.layout import Layout
from meshkit.cli.codegen.protos import module_of
from meshkit.cli.output import Failure
from meshkit.client import Client
from meshkit.naming import method_names

_WIDTH = 110
_SERVICE, _METHOD = 6, 2  # field numbers in descriptor.proto, of which the paths of comments are made


@dataclass(frozen=True)
class MessageIndex:
    """Where each message type is defined: full name with a leading dot -> (proto, name inside its module)."""

    places: Mapping[str, tuple[str, str]]

    @classmethod
    def of(cls, files: Iterable[FileDescriptorProto]) -> MessageIndex:
        """Index all message types of some protos."""
        places: dict[str, tuple[str, str]] = {}
        for file in files:
            prefix = f".{file.package}." if file.package else "."
            for name in _message_names(file.message_type):
                places[prefix + name] = (file.name, name)
        return cls(places)


def _message_names(messages: Iterable[DescriptorProto], outer: str = "") -> Iterator[str]:
    for message in messages:
        name = outer + message.name
        yield name
        yield from _message_names(message.nested_type, f"{name}.")


@dataclass
class _Names:
    """The imports of one client module, and what it calls the modules."""

    proto: str
    layout: Layout
    imports: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, proto: str, layout: Layout, used: Iterable[str]) -> _Names:
        names = cls(proto, layout)
        modules = {other: module_of(other) for other in {proto, *used}}
        uses = Counter(module.rpartition(".")[2] for module in modules.values())
        for other, module in modules.items():
            short = module.rpartition(".")[2]
            names.imports[other] = short if uses[short] == 1 else module.replace(".", "_")
        return names

    def statements(self, base: str) -> list[str]:
        """Give the import lines, sorted, with that of the base class among them."""
        absolute: list[str] = [base]
        relative: list[str] = []
        for proto, alias in self.imports.items():
            package, name = self.layout.reference(proto, self.proto)
            suffix = f" as {alias}" if alias != name else ""
            line = f"from {package} import {name}{suffix}" if package else f"import {name}{suffix}"
            (relative if package.startswith(".") else absolute).append(line)
        return [*sorted(absolute), *([""] if relative else []), *sorted(relative)]


def require_names(file: FileDescriptorProto) -> None:
    """Refuse services that gRPC's generator would make invalid Python of.

    Raises:
        Failure: An RPC, or a message that it takes or gives, is named as a keyword is.
    """
    for service in file.service:
        for rpc in service.method:
            parts = ".".join((rpc.name, rpc.input_type, rpc.output_type)).split(".")
            bad = next(filter(keyword.iskeyword, parts), None)
            if bad is not None:
                raise Failure(
                    f"{file.name}: {service.name}.{rpc.name}: gRPC's stubs cannot be written with a "
                    f"keyword of Python as a name; rename {bad}"
                )


def client_source(file: FileDescriptorProto, messages: MessageIndex, layout: Layout) -> str:
    """Write the client module of a proto that has services."""
    types = {
        name
        for service in file.service
        for rpc in service.method
        for name in (rpc.input_type, rpc.output_type)
    }
    names = _Names.of(file.name, layout, (messages.places[name][0] for name in types))
    comments = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}
    classes = _class_names([service.name for service in file.service])
    blocks = [
        _Writer(file, messages, names, comments).client(index, service, classes[service.name])
        for index, service in enumerate(file.service)
    ]
    body = "".join(f"\n\n{block}" for block in blocks)
    head = [
        f'"""Typed clients of the services in {file.name}."""',
        "",
        "from __future__ import annotations",
        "",
        *_import_of("collections.abc", ("AsyncIterable", "Coroutine"), body),
        *_import_of("typing", ("Any", "Unpack"), body),
        "",
        *names.statements(*_import_of("meshkit.client", ("CallOptions", "Client", "ResponseStream"), body)),
    ]
    return re.sub(r"\n\n\n+", "\n\n", "\n".join(head)) + f"\n{body}"


def _import_of(module: str, names: Sequence[str], body: str) -> list[str]:
    """Import those of some names that occur in the code."""
    used = [name for name in names if re.search(rf"\b{name}[\[\]),]", body)]
    return [f"from {module} import {', '.join(used)}"] if used else []


def _class_names(services: Sequence[str]) -> dict[str, str]:
    names = {service: f"{service.removesuffix('Service') or service}Client" for service in services}
    uses = Counter(names.values())
    return {service: name if uses[name] == 1 else f"{service}Client" for service, name in names.items()}


@dataclass(frozen=True)
class _Writer:
    file: FileDescriptorProto
    messages: MessageIndex
    names: _Names
    comments: Mapping[tuple[int, ...], str]

    def client(self, index: int, service: ServiceDescriptorProto, name: str) -> str:
        full_name = f"{self.file.package}.{service.name}" if self.file.package else service.name
        own = self.names.imports[self.file.name]
        lines = [
            f"class {name}(Client):",
            *_docstring(self.comments.get((_SERVICE, index), ""), f"Client of {full_name}."),
            "",
            f'    contract = {own}.DESCRIPTOR.services_by_name["{service.name}"]',
        ]
        reserved = {*dir(Client), *self.names.imports.values(), *_RESERVED}
        methods = method_names([rpc.name for rpc in service.method], reserved)
        for number, rpc in enumerate(service.method):
            comment = self.comments.get((_SERVICE, index, _METHOD, number), "")
            lines += ["", *self._method(rpc, methods[rpc.name], comment, f"{full_name}/{rpc.name}")]
        return "\n".join(lines) + "\n"

    def _method(self, rpc: MethodDescriptorProto, name: str, comment: str, path: str) -> list[str]:
        sent, answered = self._type(rpc.input_type), self._type(rpc.output_type)
        parameter, kind = (
            ("requests", f"AsyncIterable[{sent}]") if rpc.client_streaming else ("request", sent)
        )
        answer = f"ResponseStream[{answered}]" if rpc.server_streaming else f"Coroutine[Any, Any, {answered}]"
        arity = "_".join(
            "stream" if streams else "unary" for streams in (rpc.client_streaming, rpc.server_streaming)
        )
        return [
            *_signature(name, f"{parameter}: {kind}", answer),
            *textwrap.indent("\n".join(_docstring(comment, f"Call {path}.")), "    ").splitlines(),
            f'        return self._{arity}("{rpc.name}", {parameter}, options)',
        ]

    def _type(self, full_name: str) -> str:
        proto, name = self.messages.places[full_name]
        return f"{self.names.imports[proto]}.{name}"


_RESERVED = ("contract", "CallOptions", "ResponseStream", "AsyncIterable", "Coroutine", "Unpack", "Any")


def _signature(name: str, parameter: str, answer: str) -> list[str]:
    options = "**options: Unpack[CallOptions]"
    one = f"    def {name}(self, {parameter}, {options}) -> {answer}:"
    if len(one) <= _WIDTH:
        return [one]
    two = f"        self, {parameter}, {options}"
    if len(two) <= _WIDTH:
        return [f"    def {name}(", two, f"    ) -> {answer}:"]
    inner = [f"        {part}," for part in ("self", parameter)]
    return [f"    def {name}(", *inner, f"        {options},", f"    ) -> {answer}:"]


def _docstring(comment: str, default: str) -> list[str]:
    text = textwrap.dedent("\n".join(line.rstrip() for line in comment.splitlines())).strip("\n")
    text = text.strip().replace("\\", "\\\\").replace('"""', '\\"\\"\\"') or default
    if text.endswith('"'):
        text = f'{text[:-1]}\\"'
    first, *rest = text.splitlines()
    if not rest:
        return [f'    """{first}"""']
    return [f'    """{first}', *(f"    {line}".rstrip() for line in rest), '    """']
