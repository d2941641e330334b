"""Finding cells in PostgreSQL: by words (text index, BM25), by vectors (pgvector), in order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from reference_services._gen.contextunity.brain.v1 import brain_pb2 as pb
from reference_services.brain.fusion import Ranked
from reference_services.brain.postgres.selection import conditions
from reference_services.brain.postgres.vectors import near, packed
from reference_services.brain.postgres.words import own
from reference_services.brain.store import EVERY, Selection, Vector
from reference_services.brain.words import beginning, words
from reference_services.postgres import Connection, Database, rows

QUERY_WORDS = 32
"""A query's words that are searched, the rarest ones."""

COUNTED_WORDS = 128
"""A query's words that are looked at, the longest ones: longer words are rarer, by and large."""

COMMON, COMMONEST = 0.4, 2_000
"""A word that stands in more of the tenant's cells than this share, or this number, makes no cell a hit as long as
others do; it only adds to what those hits score."""

EXACT = 10_000
"""Vectors among which the nearest are found exactly; among more, by the index."""

_PREFIX_FROM = 3
_SEARCHED = 1_000
"""Vectors that the index keeps in mind as it looks for the nearest: the most that it can, for the surest answer. Of
12,000 cells of unrelated words, it finds 0.98 of the nearest 50 with it, and 0.83 with 200."""
_SCANNED = 100_000
"""Vectors that the index looks at, at most, to find enough of those that are meant."""


class _Term(NamedTuple):
    """What is looked for in the text index: a word, or what begins like it."""

    word: str
    query: str
    exact: bool


class PostgresRetrieval:
    """Cells by what they say.

    Args:
        database: Where they are.
        dimensions: Length of a vector.
    """

    def __init__(self, database: Database, dimensions: int) -> None:
        self._database = database
        self._dimensions = dimensions

    async def matching(self, tenant: str, query: str, selection: Selection, depth: int) -> list[Ranked]:
        """See `Retrieval`."""
        plain = sorted(dict.fromkeys(words(query)), key=len, reverse=True)[:COUNTED_WORDS]

        async def work(db: Connection) -> list[Ranked]:
            known = await rows(db, "SELECT number, cells, length FROM brain.tenants WHERE cells > 0")
            if not known or not plain:
                return []
            number, cells, length = known[0]
            most = min(max(int(COMMON * cells), 20), COMMONEST)
            counts = await _counted(db, [term for word in plain for term in _terms(number, word)], most)
            if not counts:
                return []
            where, values = conditions(selection)
            join = "" if selection == EVERY else f"JOIN brain.cells AS c ON c.seq = r.cell WHERE {where}"
            weights = _weights(counts, cells, most)
            found = await rows(
                db,
                "SELECT r.cell, r.score FROM brain.ranked(%s::tsquery, %s::text[]::tsquery[], %s, %s) AS r "
                f"{join} ORDER BY r.score DESC, r.cell LIMIT %s",
                (
                    _candidates(counts, most),
                    list(weights),
                    list(weights.values()),
                    length / cells,
                    *values,
                    depth,
                ),
            )
            return [Ranked(seq, score) for seq, score in found]

        return await self._database.read(tenant, work)

    async def nearest(
        self, tenant: str, vector: Vector, selection: Selection, depth: int, floor: float
    ) -> list[Ranked]:
        """See `Retrieval`."""

        async def work(db: Connection) -> list[Ranked]:
            source, values = "brain.vectors AS v", list[object]()
            if selection != EVERY:
                where, values = conditions(selection)
                source = f"brain.vectors AS v JOIN brain.cells AS c ON c.seq = v.cell WHERE {where}"
            if await _few(db, selection):
                candidates = f"SELECT v.cell, v.vector FROM {source}"
                given: list[object] = values
            else:
                await _widen(db)
                candidates = (
                    f"SELECT v.cell, v.vector FROM {source} ORDER BY {near('v.vector', self._dimensions)} <#> "
                    f"{near('%b::vector', self._dimensions)} LIMIT {depth}"
                )
                given = [*values, packed(vector)]
            found = await rows(
                db,
                f"SELECT cell, score FROM (SELECT cell, -(vector <#> %b::vector) AS score FROM ({candidates}) AS v) "
                f"AS s WHERE score > %s ORDER BY score DESC, cell LIMIT {depth}",
                [packed(vector), *given, floor],
            )
            return [Ranked(seq, score) for seq, score in found]

        return await self._database.read(tenant, work)

    async def listing(self, tenant: str, selection: Selection, after_id: str, limit: int) -> list[pb.Cell]:
        """See `Retrieval`."""
        where, values = conditions(selection)

        async def work(db: Connection) -> list[pb.Cell]:
            found = await rows(
                db,
                f"SELECT c.body FROM brain.cells AS c WHERE {where} AND c.id > %s ORDER BY c.id LIMIT %s",
                (*values, after_id, limit),
            )
            return [pb.Cell.FromString(body) for (body,) in found]

        return await self._database.read(tenant, work)

    async def read(self, tenant: str, seqs: Sequence[int]) -> dict[int, pb.Cell]:
        """See `Retrieval`."""

        async def work(db: Connection) -> dict[int, pb.Cell]:
            found = await rows(db, "SELECT seq, body FROM brain.cells WHERE seq = ANY (%s)", (list(seqs),))
            return {seq: pb.Cell.FromString(body) for seq, body in found}

        return await self._database.read(tenant, work)


def _terms(number: int, word: str) -> list[_Term]:
    """A word, and what begins like it."""
    exact = _Term(word, own(number, word), True)
    start = beginning(word)
    if len(start) < _PREFIX_FROM:
        return [exact]
    return [exact, _Term(word, f"{own(number, start)}:*", False)]


async def _counted(db: Connection, terms: Sequence[_Term], most: int) -> dict[_Term, int]:
    """In how many cells the terms stand that stand in any, the rarest words alone; more than `most` are not counted."""
    ((counts,),) = await rows(
        db, "SELECT brain.frequencies(%s::text[]::tsquery[], %s)", ([term.query for term in terms], most + 1)
    )
    seen = {term: int(count) for term, count in zip(terms, counts, strict=True) if count}
    rarest = sorted(seen, key=lambda term: seen[term])
    chosen = set(list(dict.fromkeys(term.word for term in rarest))[:QUERY_WORDS])
    return {term: count for term, count in seen.items() if term.word in chosen}


def _weights(counts: dict[_Term, int], cells: int, most: int) -> dict[str, float]:
    """What the terms weigh: inverse document frequency, as BM25 has it."""
    exact = {term.word: count for term, count in counts.items() if term.exact}
    prefixed = {term.word: count for term, count in counts.items() if not term.exact}
    weights = {}
    for term, count in counts.items():
        twice = exact.get(term.word) == prefixed.get(
            term.word
        )  # nothing but the word begins like it: looked up once
        if twice and term.exact:
            continue
        likely = count if count <= most else math.sqrt(most * cells)
        weight = math.log(1 + max(cells - likely + 0.5, 0.0) / (likely + 0.5))
        weights[term.query] = 2 * weight if twice else weight
    return weights


def _candidates(counts: dict[_Term, int], most: int) -> str:
    """The query for the cells that may be hits: by the terms that are not common, or by the rarest."""
    least = min(counts.values())
    return " | ".join(term.query for term, count in counts.items() if count <= max(most, least))


async def _few(db: Connection, selection: Selection) -> bool:
    """Whether so few cells are meant that looking at each of them is as fast as the index, and exact."""
    if selection == EVERY:
        found = await rows(db, "SELECT cells <= %s FROM brain.tenants", (EXACT,))
        return bool(not found or found[0][0])
    where, values = conditions(selection)
    ((count,),) = await rows(
        db,
        f"SELECT count(*) FROM (SELECT FROM brain.cells AS c WHERE {where} LIMIT %s) AS found",
        (*values, EXACT + 1),
    )
    return bool(count <= EXACT)


async def _widen(db: Connection) -> None:
    """Makes the index go on until it has found enough of the tenant's, and enough to be sure."""
    await db.execute(
        f"SET LOCAL hnsw.ef_search = {_SEARCHED}; SET LOCAL hnsw.iterative_scan = strict_order; "
        f"SET LOCAL hnsw.max_scan_tuples = {_SCANNED}".encode()
    )
