"""Answers of instances, made up."""

from collections.abc import Mapping, Sequence
from typing import Any

from meshkit._gen.meshkit.v1 import mesh_pb2 as pb
from meshkit.cli.top.figures import Answer, Row, Seen, rows_of
from meshkit.cli.top.screen import Facts
from meshkit.instance import Instance, State

SEARCH = "brain.v1.BrainService/Search"
UPSERT = "brain.v1.BrainService/Upsert"
MEASURE = "meshkit.v1.MeshService/Measure"

Counts = Mapping[str, Mapping[str, int]]


def measured(
    uptime: float,
    calls: Counts | None = None,
    *,
    p: Mapping[str, tuple[float, float]] | None = None,
    **facts: Any,
) -> pb.MeasureResponse:
    """What an instance counted: calls by method and code; latencies (p50, p99) by method."""
    facts = {"instance_id": "brain-1", "state": "serving", "running": 1} | facts
    latencies = dict.fromkeys(calls or {}, (0.0, 0.0)) | dict(p or {})
    return pb.MeasureResponse(
        uptime_s=uptime,
        calls=[
            pb.MethodCalls(
                method=method,
                codes=codes,
                p50_s=latencies.get(method, (0, 0))[0],
                p99_s=latencies.get(method, (0, 0))[1],
            )
            for method, codes in (calls or {}).items()
        ],
        **facts,
    )


def instance(name: str = "brain-1", service: str = "brain", **facts: Any) -> Instance:
    return Instance(**({"service": service, "instance_id": name, "address": "10.0.0.1:5"} | facts))


def pool(service: str, *endpoints: pb.Endpoint) -> pb.Pool:
    return pb.Pool(service=service, endpoints=endpoints)


def endpoint(name: str, gate: str = "open", **facts: Any) -> pb.Endpoint:
    return pb.Endpoint(**({"instance_id": name, "address": "10.0.0.1:5", "gate": gate} | facts))


def seen(
    name: str = "brain-1",
    service: str = "brain",
    *,
    calls: Counts | None = None,
    p: Mapping[str, tuple[float, float]] | None = None,
    pools: Sequence[pb.Pool] = (),
    seconds: float = 10.0,
    known: Mapping[str, Any] | None = None,
    **facts: Any,
) -> Seen:
    """An instance that answered twice, so many seconds apart, and counted this in between."""
    before = measured(100.0, {method: {} for method in calls or {}}, instance_id=name)
    after = measured(100.0 + seconds, calls, p=p, instance_id=name, **facts)
    return Seen(
        instance(name, service, **(known or {})), Answer.of(name, after, pools), Answer.of(name, before, ())
    )


def silent(
    name: str = "brain-2", service: str = "brain", why: str = "no answer within 2 s", **facts: Any
) -> Seen:
    return Seen(instance(name, service, **facts), silence=why, silent_s=75.0)


def gone(name: str = "brain-3", service: str = "brain") -> Seen:
    return Seen(instance(name, service), gone_s=4.2)


def draining(name: str = "brain-4") -> Seen:
    return Seen(
        instance(name, state=State.DRAINING), silence="the instance is draining [DRAINING]", silent_s=1.0
    )


def row(*arguments: Any, **facts: Any) -> Row:
    (found,) = rows_of([seen(*arguments, **facts)])
    return found


FACTS = Facts("contextunity", "redis://10.0.0.9:6379/0", 2.0, at=1_700_000_000.0)
