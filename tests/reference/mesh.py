"""The four reference services in one process, with a record of who called brain and zero for whom."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from meshkit import Exchange, Handler, Mesh
from meshkit.testing import LocalMesh
from reference_services._gen.contextunity.brain.v1 import brain_pb2 as brain
from reference_services._gen.contextunity.router.v1 import router_pb2 as router
from reference_services._gen.contextunity.worker.v1 import worker_pb2 as worker
from reference_services._gen.contextunity.worker.v1.worker_client import WorkerClient
from reference_services._gen.contextunity.zero.v1 import zero_pb2 as zero
from reference_services.brain.service import Brain
from reference_services.router.service import Router
from reference_services.worker.service import Worker
from reference_services.zero.service import Zero

FINAL = {worker.WORKFLOW_STATE_SUCCEEDED, worker.WORKFLOW_STATE_FAILED, worker.WORKFLOW_STATE_CANCELLED}


class Seen(NamedTuple):
    """A call that came in: by whom, for whom, for which tenant, and what it said."""

    service: str
    method: str
    principal: str
    subject: str
    tenant: str
    request: str


class Probe:
    """Records the calls of the classes that it gives; `hold` is awaited within each."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.hold: Callable[[Seen], Awaitable[None]] | None = None
        descriptors = (brain.DESCRIPTOR, "Brain"), (zero.DESCRIPTOR, "Zero")
        contracts = [file.services_by_name[f"{name}Service"] for file, name in descriptors]

        class WatchedBrain(Brain, contract=contracts[0], name="brain", middleware=(self._layer("brain"),)):
            pass

        class WatchedZero(Zero, contract=contracts[1], name="zero", middleware=(self._layer("zero"),)):
            pass

        self.brain, self.zero = WatchedBrain, WatchedZero

    def of(self, service: str) -> list[Seen]:
        """The calls of one service, in order."""
        return [seen for seen in self.seen if seen.service == service]

    def _layer(self, service: str) -> Callable[[Handler], Handler]:
        def layer(serve: Handler) -> Handler:
            async def watched(exchange: Exchange) -> None:
                call = exchange.call
                names = [who.name if who else "" for who in (call.principal, call.subject)]
                seen = Seen(service, exchange.method.name, *names, call.tenant, str(exchange.request))
                self.seen.append(seen)
                if self.hold is not None:
                    await self.hold(seen)
                await serve(exchange)

            return watched

        return layer


def local_mesh(
    probe: Probe, feeds: Path, *, router: Mapping[str, Any] = {}, database: str = "", **options: Any
) -> LocalMesh:
    """All four, with settings of the router, and a database; one worker, for there is one to a process."""
    worker = {"harvest_roots": (str(feeds),), "harvest_batch_rows": 20, "worker_polling_s": 0.05}
    kinds = (probe.brain, Router, probe.zero, Worker)
    configs = {kind: {f"{kind.definition.name}_database_url": database} for kind in kinds}
    configs[Worker] |= worker
    configs[Router] |= router
    return LocalMesh(*kinds, configs=configs, tenant="acme", **options)


def feed(folder: Path, products: int = 50) -> Path:
    """A feed of products."""
    path = folder / "feed.csv"
    rows = [f"S{n},Garden gnome {n},Gnomes Ltd,Garden,{n + 1}.50,EUR" for n in range(products)]
    path.write_text("\n".join(["sku,name,brand,category,price,currency", *rows]) + "\n")
    return path


async def harvest(
    mesh: Mesh, path: Path, *, tenant: str = "", key: str = "k", patience: float = 60.0, **options: Any
) -> worker.Workflow:
    """Harvests a feed, and waits until that has ended."""
    client = mesh.client(WorkerClient)
    request = worker.StartWorkflowRequest(workflow="harvest", idempotency_key=key)
    request.arguments.update({"feed": str(path), "source": "gnomes"})
    started = await client.start_workflow(request, tenant=tenant, **options)
    async with (
        asyncio.timeout(patience),
        client.watch_workflow(worker.WatchWorkflowRequest(id=started.id), tenant=tenant) as states,
    ):
        async for standing in states:
            if standing.state in FINAL:
                return standing.workflow
    raise AssertionError("the stream ended before the workflow did")


def question(text: str, **fields: Any) -> router.ExecuteAgentRequest:
    """A question to the built-in agent, or another."""
    return router.ExecuteAgentRequest(input=text, **fields)
