"""What a search of brain costs on PostgreSQL, beside the same query in plain SQL on pgvector.

    python benchmarks/brain.py            # 50,000 cells of 384 dimensions, some minutes
    python benchmarks/brain.py --quick    # 12,000 cells, a minute

Brain is called through the mesh, with tokens, proofs and row policies; client and server share a process here, so both
sides' cost counts. The plain side is psycopg on one connection, which knows the query's vector already: the same index
with the same settings, the tenant as a condition, and the cells themselves, in one transaction. Both sides search in
turn, so that what else the machine does meets both. Recall is the share of the 10 nearest of all cells that the 10 hits
have. With `--strict` the exit code is 1 where an aim is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # it tells of each process that is started beside it

import numpy as np
import psycopg
from aims import Aim, take_strict, tell_aims
from overhead import print_table

from meshkit.testing import LocalMesh
from reference_services._gen.contextunity.brain.v1 import brain_pb2 as pb
from reference_services._gen.contextunity.brain.v1.brain_client import BrainClient
from reference_services.brain.hashing import HashingEmbedder
from reference_services.brain.postgres import retrieval
from reference_services.brain.postgres.opening import open_postgres
from reference_services.brain.postgres.vectors import indexed, know_vectors, packed
from reference_services.brain.service import Brain
from reference_services.brain.store import KnowledgeStore
from reference_services.brain.writing import cell_writes, upsert
from reference_services.postgres import Connection
from tests.postgres import Server

DIMENSIONS = 384
LIMIT = 10
TENANT = "bench"
RECALL = 0.95
ADDED_MS = 3.0
BATCH = 200

_PLAIN = f"""
SELECT c.body, -(v.vector <#> %b::vector) AS score FROM (
    SELECT cell, vector FROM brain.vectors WHERE tenant = %s ORDER BY vector <#> %b::vector LIMIT 50
) AS v JOIN brain.cells AS c ON c.seq = v.cell ORDER BY score DESC LIMIT {LIMIT}
"""


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        cells: How many there are.
        searches: How many are made by each side.
    """

    cells: int
    searches: int


FULL = Plan(50_000, 400)
QUICK = Plan(12_000, 100)


class Corpus:
    """Texts about topics: each topic has words of its own, and shares the common ones.

    Args:
        plan: How many texts, and questions about them.
    """

    def __init__(self, plan: Plan) -> None:
        chance = random.Random(7)
        words = [
            "".join(chance.choices("abcdefghiklmnoprstuvwz", k=chance.randint(3, 10))) for _ in range(20_000)
        ]
        weights = [1 / (rank + 3) for rank in range(len(words))]  # Zipf's law, by and large
        topics = [chance.choices(words, k=60) for _ in range(plan.cells // 40)]

        def text(topic: list[str], own: int, common: int) -> str:
            return " ".join([*chance.choices(topic, k=own), *chance.choices(words, weights, k=common)])

        self.texts = [text(chance.choice(topics), 30, 30) for _ in range(plan.cells)]
        self.questions = [text(chance.choice(topics), 6, 2) for _ in range(plan.searches)]


async def fill(url: str, store: KnowledgeStore, texts: Sequence[str]) -> float:
    """Stores the texts, builds the index over all of them at once, and says how many seconds that took."""
    begun = time.perf_counter()
    *_, index = indexed(DIMENSIONS)
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute("SET search_path TO brain, public; SET maintenance_work_mem = '512MB'")
        owner.execute("DROP INDEX vectors_by_nearness")
        embedder = HashingEmbedder(DIMENSIONS)
        for at in range(0, len(texts), BATCH):
            cells = [pb.Cell(id=f"c{at + n}", text=text) for n, text in enumerate(texts[at : at + BATCH])]
            await upsert(store.cells, embedder, TENANT, cell_writes(pb.UpsertRequest(cells=cells)))
        owner.execute(index.encode())
        owner.execute("VACUUM ANALYZE")
    return time.perf_counter() - begun


def nearest(corpus: Corpus) -> list[set[str]]:
    """The ids that are nearest each question, of all cells."""
    embedder = HashingEmbedder(DIMENSIONS)
    found = []
    matrix = np.vstack(
        [
            np.asarray(embedder.embed_now(_spoken(corpus.texts[at : at + BATCH])))
            for at in range(0, len(corpus.texts), BATCH)
        ]
    )
    for question in corpus.questions:
        scores = matrix @ embedder.embed_now([question])[0]
        found.append({f"c{n}" for n in np.argsort(-scores, kind="stable")[:LIMIT]})
    return found


def _spoken(texts: Sequence[str]) -> list[str]:
    """What brain embeds of cells that have only a text."""
    cells = [pb.Cell(id=f"c{n}", text=text) for n, text in enumerate(texts)]
    return [write.spoken for write in cell_writes(pb.UpsertRequest(cells=cells))]


@dataclass
class Side:
    """What one side's searches took and found."""

    took: list[float]
    recall: list[float]

    def note(self, begun: float, ids: Sequence[str], exact: set[str]) -> None:
        self.took.append((time.perf_counter() - begun) * 1000)
        self.recall.append(len(exact & set(ids)) / len(exact))

    def row(self, name: str) -> tuple[str, ...]:
        return (
            name,
            f"{median(self.took):.2f}",
            f"{self.p99:.2f}",
            f"{sum(self.recall) / len(self.recall):.3f}",
        )

    @property
    def p99(self) -> float:
        return quantiles(self.took, n=100)[98]


async def by_plain(db: Connection, vector: Any) -> list[str]:
    """The hits' ids by plain SQL."""
    await db.execute("BEGIN READ ONLY")
    await retrieval._widen(db)
    given = packed(vector)
    found = await (await db.execute(_PLAIN.encode(), (given, TENANT, given))).fetchall()
    await db.execute("COMMIT")
    return [pb.Cell.FromString(body).id for body, _ in found]


async def by_brain(client: BrainClient, question: str) -> list[str]:
    """The hits' ids by the RPC."""
    request = pb.SearchRequest(query=question, limit=LIMIT, mode=pb.SEARCH_MODE_VECTOR)
    return [each.hit.cell.id async for each in client.search(request)]


async def measure(url: str, plan: Plan) -> tuple[Side, Side]:
    """The plain side and brain."""
    corpus = Corpus(plan)
    exact = nearest(corpus)
    embedder = HashingEmbedder(DIMENSIONS)
    plain, rpc = Side([], []), Side([], [])
    async with open_postgres(url, embedder=embedder.name, dimensions=DIMENSIONS) as store:
        print(f"filled in {await fill(url, store, corpus.texts):.0f} s")
    settings = {Brain: {"brain_database_url": url}}
    async with (
        LocalMesh(Brain, configs=settings, tenant=TENANT) as mesh,
        await psycopg.AsyncConnection.connect(url, autocommit=True) as db,
    ):
        await know_vectors(db)
        await db.execute("SET jit = off")
        client = mesh.client(BrainClient)
        for turn in range(20 + plan.searches):  # the first warm up, and do not count
            number = max(0, turn - 20)
            (vector,) = embedder.embed_now([corpus.questions[number]])
            begun = time.perf_counter()
            plainly = await by_plain(db, vector)
            if turn >= 20:
                plain.note(begun, plainly, exact[number])
            begun = time.perf_counter()
            hits = await by_brain(client, corpus.questions[number])
            if turn >= 20:
                rpc.note(begun, hits, exact[number])
    return plain, rpc


def main() -> None:
    parser = argparse.ArgumentParser(description="What a search of brain costs on PostgreSQL.")
    parser.add_argument("--quick", action="store_true", help="12,000 cells, to see that it works")
    take_strict(parser)
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else FULL
    print(
        f"{plan.cells} cells of {DIMENSIONS}, {os.cpu_count()} processors; load before: {os.getloadavg()[0]:.2f}"
    )
    server = Server({"shared_buffers": "'512MB'"})
    with server.superuser() as connection:
        connection.execute("CREATE DATABASE bench")
    plain, rpc = asyncio.run(measure(server.url("bench"), plan))
    print_table(("side", "p50 ms", "p99 ms", "recall"), [plain.row("plain SQL"), rpc.row("brain's RPC")])
    added = median(rpc.took) - median(plain.took)
    most = max(median(plain.took), ADDED_MS)
    recall = sum(rpc.recall) / len(rpc.recall)
    aims = [
        Aim(f"recall of {RECALL:g} or more", f"{recall:.3f}", recall >= RECALL),
        Aim(f"brain adds at most {most:.2f} ms", f"{added:.2f} ms", added <= most),
    ]
    raise SystemExit(tell_aims(aims, strict=arguments.strict))


if __name__ == "__main__":
    main()
