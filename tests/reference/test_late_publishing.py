"""A worker that is held up between reading the tables and writing to brain does not put an older price back."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from meshkit import Call
from reference_services._gen.contextunity.brain.v1 import brain_pb2 as pb
from reference_services.brain.config import BrainConfig
from reference_services.brain.hashing import HashingEmbedder
from reference_services.brain.service import Brain
from reference_services.brain.sqlite.opening import open_sqlite
from reference_services.worker.harvester.cleaning import Item
from reference_services.worker.harvester.commerce import Commerce, Run
from reference_services.worker.harvester.planning import outline
from reference_services.worker.harvester.publishing import cell_id
from reference_services.worker.harvester.workflows import _publish, read_batch
from reference_services.worker.sqlite.opening import open_sqlite as open_worker

ACME = Call.for_test(tenant="acme")


class Client:
    """A client of brain that is held up where a test wants it."""

    def __init__(self, brain: Brain) -> None:
        self.brain = brain
        self.first: Callable[[], Awaitable[None]] | None = None

    async def upsert(self, request: pb.UpsertRequest) -> pb.UpsertResponse:
        if self.first is not None:
            first, self.first = self.first, None
            await first()
        return await self.brain.upsert(request, ACME)


class Context:
    """As much of a workflow's context as publishing needs."""

    tenant = "acme"

    def __init__(self, commerce: Commerce, client: Client) -> None:
        self.resources = self
        self._commerce = commerce
        self._client = client

    def get(self, _kind: Any) -> Commerce:
        return self._commerce

    async def check(self) -> None:
        """Nobody cancels."""

    async def on_mesh(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        return await work(self)

    def client(self, _kind: Any) -> Client:
        return self._client


@contextlib.asynccontextmanager
async def begun(folder: Path) -> AsyncIterator[tuple[Commerce, Run, Brain]]:
    feed = folder / "feed.csv"
    feed.write_text("sku,name,price,currency\nA,thing,1.00,EUR\nA,thing,2.00,EUR\n")
    async with (
        open_worker(folder / "worker.sqlite") as tables,
        open_sqlite(folder / "brain.sqlite", embedder="hashing-v1", dimensions=64, now=lambda: 1) as store,
    ):
        brain = Brain(config=BrainConfig(state_dir=folder, brain_embedding_dimensions=64))
        brain.embedder, brain.store = HashingEmbedder(64), store
        commerce = tables.commerce
        run = await commerce.runs.begin("acme", "one", "shop", feed, outline(feed, [str(folder)], "auto", 1))
        yield commerce, run, brain


async def commit(commerce: Commerce, run: Run, number: int) -> list[tuple[Item, int]]:
    (batch,) = await commerce.batches.span(run, number, number + 1)
    data = run.feed.read_bytes()[batch.start : batch.end]
    stored = await commerce.batches.commit(run, number, *read_batch(data, batch, run))
    assert stored
    return stored


async def test_the_price_in_brain_is_the_last_whoever_publishes_last(tmp_path: Path) -> None:
    async with begun(tmp_path) as (commerce, run, brain):
        slow = Client(brain)
        first = await commit(commerce, run, 0)

        async def meanwhile() -> None:  # another replica does the rest, and publishes it
            second = await commit(commerce, run, 1)
            await _publish(Context(commerce, Client(brain)), run, second)  # type: ignore[arg-type]

        slow.first = meanwhile
        await _publish(Context(commerce, slow), run, first)  # type: ignore[arg-type]
        (cell,) = (await brain.get(pb.GetRequest(ids=[cell_id("shop", "A")]), ACME)).cells
        assert cell.product.price_minor == 200
