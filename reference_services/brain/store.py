"""What brain keeps rows in: a protocol for each concern, and the values that go in and come out.

The contract's own messages are the model: a row's truth is the message, columns beside it are what queries
filter by. Each method takes the tenant first and touches that tenant's rows only. Times are microseconds
since 1970.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from reference_services._gen.contextunity.brain.v1 import brain_pb2 as pb
from reference_services.brain.fusion import Ranked

Vector = npt.NDArray[np.float32]
"""One vector, of length 1."""

Between = tuple[int | None, int | None]
"""From when on and until before when; None: without a bound."""

After = tuple[int, str] | None
"""Time and id of the last row of the page before; None: this is the first."""


class Stored(NamedTuple):
    """What is known of a stored cell without reading it."""

    etag: str
    spoken: str
    """Fingerprint of what its vector was made from."""


@dataclass(frozen=True, slots=True)
class CellWrite:
    """A cell on its way in.

    Attributes:
        cell: With id and etag; without times (but `created_at` where the writer gave one).
        heading: Words that name it, searched with more weight than its text.
        spoken: Fingerprint of heading and text, from which the vector is made.
        vector: None where the stored cell was seen to have the same `spoken`, and so keeps its vector.
        if_match: The etag the stored cell must have, empty = there must be none; None = any.
        version: The version of the content at its source: not written over a higher one; None = written over any.
    """

    cell: pb.Cell
    heading: str
    spoken: str
    vector: Vector | None = None
    if_match: str | None = None
    version: int | None = None


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """A document that is stored whole.

    Attributes:
        id: Its id.
        sha256: Of its content, in hexadecimal.
        fingerprint: Of content, header and the way it was split: the same means nothing is to be done.
        cells: Number of its cells.
    """

    id: str
    sha256: str
    fingerprint: str
    cells: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductSelection:
    """Which products are meant; names are folded."""

    min_price: int | None = None
    max_price: int | None = None
    currency: str = ""
    brands: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    availabilities: tuple[int, ...] = ()
    sku: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which cells are meant: all that is set must hold."""

    sources: tuple[str, ...] = ()
    document_ids: tuple[str, ...] = ()
    metadata: tuple[tuple[str, str | float | bool], ...] = ()
    created_from: int | None = None
    created_before: int | None = None
    kinds: tuple[int, ...] = ()
    product: ProductSelection | None = None


EVERY = Selection()
"""All cells."""


class VectorOutdated(Exception):
    """A cell was to keep its vector, and was changed by another writer meanwhile: read again and embed."""


class Cells(Protocol):
    """Cells by id."""

    async def stored(self, tenant: str, ids: Sequence[str]) -> dict[str, Stored]:
        """What is known of those of the ids that are there."""
        ...

    async def put(self, tenant: str, writes: Sequence[CellWrite]) -> list[pb.UpsertOutcome]:
        """Writes cells in one transaction, and says of each what became of it.

        Raises:
            VectorOutdated: See there; nothing was written.
        """
        ...

    async def get(self, tenant: str, ids: Sequence[str]) -> dict[str, pb.Cell]:
        """Those of the cells that are there."""
        ...

    async def delete(self, tenant: str, ids: Sequence[str], document_ids: Sequence[str]) -> tuple[int, int]:
        """Removes cells, and documents with theirs.

        Returns:
            Number of cells and of documents removed.
        """
        ...


class Retrieval(Protocol):
    """Cells by what they say."""

    async def matching(self, tenant: str, query: str, selection: Selection, depth: int) -> list[Ranked]:
        """The cells with the query's words, best first by BM25, at most `depth`."""
        ...

    async def nearest(
        self, tenant: str, vector: Vector, selection: Selection, depth: int, floor: float
    ) -> list[Ranked]:
        """The cells whose vectors are nearest, best first by cosine above `floor`, at most `depth`."""
        ...

    async def listing(self, tenant: str, selection: Selection, after_id: str, limit: int) -> list[pb.Cell]:
        """Cells in the order of their ids, from behind `after_id`."""
        ...

    async def read(self, tenant: str, seqs: Sequence[int]) -> dict[int, pb.Cell]:
        """Those of the cells that are (still) there, by the store's own number."""
        ...


class Documents(Protocol):
    """Documents: cells that change together."""

    async def document(self, tenant: str, document_id: str) -> DocumentRow | None:
        """The document as it is stored, if it is."""
        ...

    async def replace(
        self, tenant: str, document: DocumentRow, writes: Sequence[CellWrite]
    ) -> tuple[int, int]:
        """Makes these the document's cells, in one transaction; those it has no more are removed.

        Returns:
            Number of cells written and of cells removed.

        Raises:
            VectorOutdated: See there; nothing was written.
        """
        ...

    async def staged(self, tenant: str, document_id: str, keys: Sequence[str]) -> dict[str, Vector]:
        """Vectors kept from an ingestion that was not finished, by `CellWrite.spoken`."""
        ...

    async def stage(self, tenant: str, document_id: str, vectors: Mapping[str, Vector]) -> None:
        """Keeps vectors for a day or until the document is replaced."""
        ...


class Memory(Protocol):
    """Episodes and facts."""

    async def append_episode(self, tenant: str, episode: pb.Episode) -> tuple[pb.Episode, bool]:
        """Stores an episode, once.

        Returns:
            The episode as stored, and whether it is new.

        Raises:
            AlreadyExists: `EPISODE_EXISTS`: there is one of that id with other content.
        """
        ...

    async def list_episodes(
        self,
        tenant: str,
        session_id: str,
        between: Between,
        after: After,
        limit: int,
    ) -> list[pb.Episode]:
        """Episodes, newest first, from behind (time, id) `after`."""
        ...

    async def upsert_fact(self, tenant: str, fact: pb.Fact, if_match: str | None) -> tuple[pb.Fact, bool]:
        """Stores a fact.

        Returns:
            The fact as stored, and whether it is new.

        Raises:
            Aborted: `ETAG_MISMATCH`.
        """
        ...

    async def list_facts(
        self, tenant: str, subject: str, predicate: str, after_id: str, limit: int
    ) -> list[pb.Fact]:
        """Facts in the order of their ids, from behind `after_id`."""
        ...


class Traces(Protocol):
    """Records of what agents did."""

    async def log_trace(self, tenant: str, trace: pb.Trace) -> bool:
        """Stores a trace, once, and says whether it is new.

        Raises:
            AlreadyExists: `TRACE_EXISTS`: there is one of that id with other content.
        """
        ...

    async def list_traces(
        self,
        tenant: str,
        session_id: str,
        agent_id: str,
        between: Between,
        after: After,
        limit: int,
    ) -> list[pb.Trace]:
        """Traces, newest first, from behind (time, id) `after`."""
        ...

    async def forget_traces(self, age: int, limit: int) -> int:
        """Deletes up to `limit` traces of any tenant that began so many microseconds ago, and says how many."""
        ...


class Figures(Protocol):
    """What there is."""

    async def stats(self, tenant: str) -> pb.StatsResponse:
        """The tenant's figures, without the embedder's."""
        ...


@dataclass(frozen=True, slots=True)
class KnowledgeStore:
    """All concerns of one store.

    Attributes:
        answers: Raises why it cannot be used.
    """

    cells: Cells
    retrieval: Retrieval
    documents: Documents
    memory: Memory
    traces: Traces
    figures: Figures
    answers: Callable[[], Awaitable[None]]

    async def check(self) -> None:
        """Makes sure that it can be used.

        Raises:
            MeshError: Why it cannot.
        """
        await self.answers()
