"""Manifests: what a project registers, checked against its bounds, in canonical form, and read as agents."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable

from google.protobuf import json_format, struct_pb2

from meshkit import InvalidArgument
from reference_services._gen.contextunity.router.v1 import router_pb2 as pb
from reference_services.router.model import Agent, Extractive, Llm, Retrieval, RetrievalMode

AGENT_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
"""What an agent may be called."""
TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""What a tool may be called."""

MAX_BYTES = 256 * 1024
MAX_AGENTS = 64
MAX_TOOLS = 128
MAX_AGENT_TOOLS = 32
MAX_DESCRIPTION = 1000
MAX_SYSTEM_PROMPT = 8000
MAX_PARAMETERS_BYTES = 16 * 1024
MAX_FILTER_KEYS = 16
MAX_SOURCES = 16
MAX_SOURCE = 2048
MAX_LIMIT = 50
MAX_SENTENCES = 12
MAX_OUTPUT_TOKENS = 32_768

_MODES = {
    pb.RETRIEVAL_MODE_UNSPECIFIED: RetrievalMode.HYBRID,
    pb.RETRIEVAL_MODE_HYBRID: RetrievalMode.HYBRID,
    pb.RETRIEVAL_MODE_LEXICAL: RetrievalMode.LEXICAL,
    pb.RETRIEVAL_MODE_VECTOR: RetrievalMode.VECTOR,
}
_PRIVACY = (pb.PRIVACY_MODE_UNSPECIFIED, pb.PRIVACY_MODE_MASK, pb.PRIVACY_MODE_OFF)


def canonical(manifest: pb.Manifest) -> str:
    """The manifest as JSON, the same for the same manifest: names as in the proto, keys sorted, no spaces.

    Raises:
        InvalidArgument: It holds numbers that JSON has not (`MANIFEST_INVALID`).
    """
    try:
        data = json_format.MessageToDict(manifest, preserving_proto_field_name=True)
        return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (json_format.Error, ValueError):
        raise _invalid("manifest", "it holds a number that JSON has not (NaN or infinite)") from None


def digest(body: str) -> str:
    """Hex SHA-256 of a manifest in canonical form."""
    return hashlib.sha256(body.encode()).hexdigest()


def parse(body: str) -> pb.Manifest:
    """The manifest that was stored in canonical form; fields that this version does not know are left out."""
    return json_format.Parse(body, pb.Manifest(), ignore_unknown_fields=True)


def validate(manifest: pb.Manifest) -> None:
    """Checks a manifest from outside.

    Raises:
        InvalidArgument: It is past a bound or contradicts itself (`MANIFEST_INVALID`; `field` says where).
    """
    if (size := manifest.ByteSize()) > MAX_BYTES:
        raise _invalid("manifest", f"it has {size} bytes, more than {MAX_BYTES}; split it over projects")
    _text("manifest.description", manifest.description, MAX_DESCRIPTION)
    _count("manifest.agents", len(manifest.agents), MAX_AGENTS)
    _count("manifest.tools", len(manifest.tools), MAX_TOOLS)
    _distinct("manifest.agents", (agent.agent_id for agent in manifest.agents))
    _distinct("manifest.tools", (tool.name for tool in manifest.tools))
    for tool in manifest.tools:
        _validate_tool(tool)
    tools = {tool.name for tool in manifest.tools}
    for agent in manifest.agents:
        _validate_agent(agent, tools)


def agents(manifest: pb.Manifest, *, project: str, manifest_digest: str) -> tuple[Agent, ...]:
    """The agents that a valid manifest holds."""
    return tuple(_agent(agent, project, manifest_digest) for agent in manifest.agents)


def _agent(agent: pb.Agent, project: str, manifest_digest: str) -> Agent:
    wanted = agent.retrieval
    return Agent(
        agent_id=agent.agent_id,
        project=project,
        manifest_digest=manifest_digest,
        description=agent.description,
        retrieval=Retrieval(
            enabled=not wanted.disabled,
            limit=wanted.limit or Retrieval().limit,
            mode=_MODES.get(wanted.mode, RetrievalMode.HYBRID),
            filter=json_format.MessageToDict(wanted.filter),
            sources=tuple(wanted.sources),
            min_score=wanted.min_score,
        ),
        masks=agent.privacy != pb.PRIVACY_MODE_OFF,
        answerer=_answerer(agent),
    )


def _answerer(agent: pb.Agent) -> Extractive | Llm | None:
    kind = agent.WhichOneof("answerer")
    if kind == "extractive":
        return Extractive(max_sentences=agent.extractive.max_sentences or Extractive().max_sentences)
    if kind == "llm":
        return Llm(
            system_prompt=agent.llm.system_prompt,
            temperature=agent.llm.temperature if agent.llm.HasField("temperature") else None,
            max_output_tokens=agent.llm.max_output_tokens,
        )
    return None


def _validate_agent(agent: pb.Agent, tools: set[str]) -> None:
    if not AGENT_ID.fullmatch(agent.agent_id):
        raise _invalid("agent_id", f"{agent.agent_id[:80]!r} is not {AGENT_ID.pattern}")
    place = f"agents[{agent.agent_id}]"
    _text(f"{place}.description", agent.description, MAX_DESCRIPTION)
    if agent.privacy not in _PRIVACY:
        raise _invalid(f"{place}.privacy", f"{agent.privacy} is no PrivacyMode that this router knows")
    _count(f"{place}.tools", len(agent.tools), MAX_AGENT_TOOLS)
    if unknown := [name for name in agent.tools if name not in tools]:
        raise _invalid(
            f"{place}.tools", f"the manifest declares no tool {unknown[0][:80]!r}; declare it, or remove it"
        )
    _validate_retrieval(f"{place}.retrieval", agent.retrieval)
    _range(f"{place}.extractive.max_sentences", agent.extractive.max_sentences, 0, MAX_SENTENCES)
    _text(f"{place}.llm.system_prompt", agent.llm.system_prompt, MAX_SYSTEM_PROMPT)
    _range(f"{place}.llm.temperature", agent.llm.temperature, 0, 2)
    _range(f"{place}.llm.max_output_tokens", agent.llm.max_output_tokens, 0, MAX_OUTPUT_TOKENS)


def _validate_retrieval(place: str, retrieval: pb.Retrieval) -> None:
    _range(f"{place}.limit", retrieval.limit, 0, MAX_LIMIT)
    if retrieval.mode not in _MODES:
        raise _invalid(f"{place}.mode", f"{retrieval.mode} is no RetrievalMode that this router knows")
    _range(f"{place}.min_score", retrieval.min_score, 0, 1)
    _count(f"{place}.sources", len(retrieval.sources), MAX_SOURCES)
    for source in retrieval.sources:
        if not source:
            raise _invalid(f"{place}.sources", "one of them is empty")
        _text(f"{place}.sources", source, MAX_SOURCE)
    _count(f"{place}.filter", len(retrieval.filter.fields), MAX_FILTER_KEYS)
    for key, value in retrieval.filter.fields.items():
        if value.WhichOneof("kind") not in ("string_value", "number_value", "bool_value"):
            raise _invalid(
                f"{place}.filter", f"the value of {key[:80]!r} is neither text, number nor boolean"
            )


def _validate_tool(tool: pb.Tool) -> None:
    if not TOOL_NAME.fullmatch(tool.name):
        raise _invalid("tools.name", f"{tool.name[:80]!r} is not {TOOL_NAME.pattern}")
    place = f"tools[{tool.name}]"
    _text(f"{place}.description", tool.description, MAX_DESCRIPTION)
    if not tool.parameters.fields:
        return
    if (size := len(_struct_json(place, tool.parameters).encode())) > MAX_PARAMETERS_BYTES:
        raise _invalid(
            f"{place}.parameters", f"the schema has {size} bytes, more than {MAX_PARAMETERS_BYTES}"
        )
    if tool.parameters.fields["type"].string_value != "object":
        raise _invalid(f"{place}.parameters", 'arguments are an object: the schema needs "type": "object"')


def _struct_json(place: str, data: struct_pb2.Struct) -> str:
    try:
        return json.dumps(json_format.MessageToDict(data), ensure_ascii=False, allow_nan=False)
    except (json_format.Error, ValueError):
        raise _invalid(
            f"{place}.parameters", "it holds a number that JSON has not (NaN or infinite)"
        ) from None


def _text(field: str, value: str, most: int) -> None:
    if len(value) > most:
        raise _invalid(field, f"it has {len(value)} characters, more than {most}")


def _count(field: str, found: int, most: int) -> None:
    if found > most:
        raise _invalid(field, f"there are {found}, more than {most}")


def _range(field: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise _invalid(field, f"{value:g} is not within {least:g} and {most:g}")


def _distinct(field: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise _invalid(field, f"{name[:80]!r} is there twice")
        seen.add(name)


def _invalid(field: str, problem: str) -> InvalidArgument:
    return InvalidArgument(f"{field}: {problem}.", reason="MANIFEST_INVALID", field=field)
