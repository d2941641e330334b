"""docs/services.md says of the reference services what their contracts and classes say."""

import re

import pytest
from google.protobuf.descriptor import MethodDescriptor

from meshkit import PUBLIC, CUService
from meshkit.pipeline import Method
from reference_services.brain.service import Brain
from reference_services.router.service import Router
from reference_services.shield.service import Shield
from reference_services.worker.service import Worker
from reference_services.zero.service import Zero
from tests.docs.pages import ROOT, read

PAGE = read(ROOT / "docs" / "services.md")
EACH = pytest.mark.parametrize(
    "service", [Brain, Router, Worker, Zero, Shield], ids=lambda service: service.definition.name
)


def section(name: str) -> list[str]:
    lines = [text for _, text in PAGE.prose]
    start = lines.index(f"## {name}")
    rest = lines[start + 1 :]
    end = next((place for place, line in enumerate(rest) if line.startswith("## ")), len(rest))
    return rest[:end]


def rows(name: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section(name)
        if line.startswith("| `")
    ]


@EACH
def test_every_method_is_there_with_its_permission_arity_and_repeats(service: type[CUService]) -> None:
    methods = service.definition.contract.methods_by_name
    wanted = {
        f"`{rpc.method.name}`": (
            "public" if rpc.permission is PUBLIC else f"`{rpc.permission}`",
            arity(methods[rpc.method.name]),
            "yes" if Method.of(methods[rpc.method.name]).idempotent else "no",
        )
        for rpc in service.definition.rpcs
    }
    shown = {row[0]: (row[1], row[2], row[3]) for row in rows(service.definition.name) if len(row) == 5}
    assert shown == wanted


@EACH
def test_the_port_is_the_class_s(service: type[CUService]) -> None:
    assert any(f"port {service.definition.port}" in line for line in section(service.definition.name))


@EACH
def test_settings_are_the_service_s_own(service: type[CUService]) -> None:
    config = service.config_class()
    own = {config.env_name(field) for field in config.model_fields if config.env_name(field) == field.upper()}
    named = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", "\n".join(section(service.definition.name))))
    shared = {"SERVICE_", "LOG_", "GRPC_", "REDIS_", "METRICS_", "OTEL_"}
    prefixes = tuple({name.partition("_")[0] + "_" for name in own} - shared)
    mine = {name for name in own if name.startswith(prefixes)}
    assert {name for name in named if name.startswith(prefixes)} == mine


def arity(method: MethodDescriptor) -> str:
    if method.client_streaming:
        return "stream both ways" if method.server_streaming else "stream in"
    return "stream out" if method.server_streaming else "unary"
