"""The trace of a call goes with the workflow that it starts, to its children, and to the calls that they make."""

from __future__ import annotations

from typing import Any

from google.protobuf import struct_pb2

from meshkit.testing import LocalMesh
from reference_services._gen.contextunity.worker.v1 import worker_pb2 as pb
from reference_services._gen.contextunity.worker.v1.worker_client import WorkerClient
from reference_services.worker.catalogue import workflow
from reference_services.worker.service import Worker
from tests.serving.probe import Probe, ProbeClient, Text
from tests.telemetry.collector import CLIENT, INTERNAL, SERVER, Collector


@workflow("traced-child", internal=True)
async def child(context: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    async def read(mesh: Any) -> Any:
        return await mesh.client(ProbeClient).read(Text(value="from a workflow"))

    async def call() -> dict[str, Any]:
        return {"said": (await context.on_mesh(read)).value}

    return await context.step("read", call)  # type: ignore[no-any-return]


@workflow("traced-parent")
async def parent(context: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    await context.join(await context.start_children("traced-child", [{"n": 1}]))
    return {}


async def test_a_workflow_and_its_calls_are_in_the_trace_of_the_call_that_started_it() -> None:
    with Collector() as collector:
        settings = {"otel_enabled": True, "otel_exporter_otlp_endpoint": collector.url}
        options = {"worker_modules": (__name__,), "worker_polling_s": 0.05}
        async with LocalMesh(Worker, Probe, settings=settings, configs={Worker: options}) as mesh:
            worker = mesh.client(WorkerClient)
            order = pb.StartWorkflowRequest(
                workflow="traced-parent", idempotency_key="one", arguments=struct_pb2.Struct()
            )
            started = await worker.start_workflow(order, tenant="acme", timeout=10)
            async for seen in worker.watch_workflow(pb.WatchWorkflowRequest(id=started.id), tenant="acme"):
                state = seen.state
            assert state == pb.WORKFLOW_STATE_SUCCEEDED
    call = collector.one("client", CLIENT, "StartWorkflow")
    served = collector.one("worker", SERVER, "StartWorkflow")
    runs = [span for span in collector.spans if span.kind == INTERNAL]
    assert sorted(span.name for span in runs) == ["workflow traced-child", "workflow traced-parent"]
    assert {span.parent_id for span in runs} == {served.span_id}
    made = collector.one("worker", CLIENT, "Read")
    assert made.parent_id == next(span.span_id for span in runs if span.name == "workflow traced-child")
    assert collector.one("probe", SERVER, "Read").parent_id == made.span_id
    assert {span.trace_id for span in (call, served, *runs, made)} == {call.trace_id}
