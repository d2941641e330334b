"""Documents: received in order, split, stored all at once, repeated without effect."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit import Call, DataLoss, InvalidArgument, MeshError, Unavailable
from reference_services._gen.contextunity.brain.v1 import brain_pb2 as pb
from reference_services.brain import bounds
from reference_services.brain.embedder import Vectors
from reference_services.brain.hashing import HashingEmbedder
from reference_services.brain.service import Brain
from reference_services.brain.splitting import LONGEST, OVERLAP, split

ACME = Call.for_test(tenant="acme")
OTHER = Call.for_test(tenant="other")
Request = pb.IngestDocumentRequest

GUIDE = """# Guide

Opening words.

## Leases

A lease is renewed every third of its time.

## Draining ##

On SIGTERM a service drains.

```
# not a heading
```
"""


class Stream:
    """A request stream that counts what was read of it."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = requests
        self.read = 0

    async def __aiter__(self) -> AsyncIterator[Request]:
        for request in self.requests:
            self.read += 1
            yield request


def stream(text: str | bytes, *, size: int = 1000, **header: object) -> Stream:
    data = text.encode() if isinstance(text, str) else text
    first = Request(header=pb.DocumentHeader(**{"document_id": "guide.md", **header}))  # type: ignore[arg-type]
    chunks = [pb.DocumentChunk(offset=at, data=data[at : at + size]) for at in range(0, len(data), size)]
    return Stream([first, *[Request(chunk=chunk) for chunk in chunks]])


async def ingest(brain: Brain, requests: Stream, call: Call = ACME) -> pb.IngestDocumentResponse:
    return await brain.ingest_document(requests.__aiter__(), call)


async def passages(brain: Brain, query: str, call: Call = ACME) -> list[pb.Cell]:
    request = pb.SearchRequest(query=query, filter=pb.CellFilter(kinds=[pb.CELL_KIND_PASSAGE]), limit=100)
    return [response.hit.cell async for response in brain.search(request, call)]


async def test_a_document_becomes_cells_with_their_headings(brain: Brain) -> None:
    response = await ingest(brain, stream(GUIDE, size=7, title="The guide", source="docs/guide.md"))
    assert (response.cells, response.cells_written, response.cells_removed) == (3, 3, 0)
    assert response.content_sha256 == sha256(GUIDE.encode()).hexdigest()
    cell = (await passages(brain, "lease renewed"))[0]
    assert cell.text == "A lease is renewed every third of its time."
    assert cell.source == "docs/guide.md"
    assert list(cell.passage.heading_path) == ["Guide", "Leases"]
    assert (cell.passage.document_id, cell.passage.title, cell.passage.ordinal) == (
        "guide.md",
        "The guide",
        1,
    )
    assert GUIDE[cell.passage.offset :].startswith(cell.text)
    assert cell.passage.length == len(cell.text)
    assert "# not a heading" in (await passages(brain, "draining"))[0].text


async def test_a_repeat_does_nothing_and_reads_nothing_where_the_hash_is_given(brain: Brain) -> None:
    await ingest(brain, stream(GUIDE))
    again = await ingest(brain, stream(GUIDE))
    assert again.unchanged
    assert (again.cells, again.cells_written) == (3, 0)
    announced = stream(GUIDE, content_sha256=sha256(GUIDE.encode()).hexdigest(), size=10)
    assert (await ingest(brain, announced)).unchanged
    assert announced.read == 1


async def test_a_new_version_keeps_what_is_the_same_and_removes_what_is_gone(brain: Brain) -> None:
    await ingest(brain, stream(GUIDE))
    kept = (await passages(brain, "lease renewed"))[0]
    response = await ingest(brain, stream(GUIDE.replace("On SIGTERM a service drains.", "Nothing is said.")))
    assert (response.cells, response.cells_removed) == (3, 1)
    assert (await passages(brain, "lease renewed"))[0] == kept
    assert await passages(brain, "SIGTERM") == []
    assert (await brain.stats(pb.StatsRequest(), ACME)).cells == 3


async def test_a_new_title_changes_the_cells(brain: Brain) -> None:
    await ingest(brain, stream(GUIDE))
    response = await ingest(brain, stream(GUIDE, title="Handbook"))
    assert not response.unchanged
    assert response.cells_written == 3
    assert {cell.passage.title for cell in await passages(brain, "handbook")} == {"Handbook"}


async def test_the_same_passage_twice_makes_two_cells(brain: Brain) -> None:
    response = await ingest(brain, stream("# A\n\nsame\n\n# A\n\nsame\n"))
    assert response.cells == 2


async def test_a_document_is_deleted_with_its_cells_by_its_tenant_alone(brain: Brain) -> None:
    await ingest(brain, stream(GUIDE))
    await ingest(brain, stream(GUIDE), OTHER)
    response = await brain.delete(pb.DeleteRequest(document_ids=["guide.md"]), ACME)
    assert (response.deleted_cells, response.deleted_documents) == (3, 1)
    assert await passages(brain, "lease") == []
    assert len(await passages(brain, "lease", OTHER)) > 0
    assert not (await ingest(brain, stream(GUIDE))).unchanged


async def test_a_passage_that_was_deleted_comes_back_with_its_document(brain: Brain) -> None:
    await ingest(brain, stream(GUIDE))
    await brain.delete(pb.DeleteRequest(ids=[(await passages(brain, "lease renewed"))[0].id]), ACME)
    assert (await ingest(brain, stream(GUIDE))).cells_written == 1
    assert len(await passages(brain, "lease renewed")) > 0


async def test_an_upsert_does_not_touch_a_document(brain: Brain) -> None:
    await ingest(brain, stream(GUIDE))
    cell = (await passages(brain, "lease renewed"))[0]
    response = await brain.upsert(pb.UpsertRequest(cells=[pb.Cell(id=cell.id, text="mine")]), ACME)
    assert response.outcomes[0].status == pb.UpsertOutcome.STATUS_CONFLICT
    assert (await passages(brain, "lease renewed"))[0] == cell


def _chunk(offset: int, data: bytes = b"x") -> Request:
    return Request(chunk=pb.DocumentChunk(offset=offset, data=data))


_HEADER = Request(header=pb.DocumentHeader(document_id="d"))
_MIB = b"x" * bounds.CHUNK_BYTES


@pytest.mark.parametrize(
    ("requests", "kind", "reason"),
    [
        ([], InvalidArgument, "HEADER_MISSING"),
        ([_chunk(0)], InvalidArgument, "HEADER_MISSING"),
        ([Request()], InvalidArgument, "HEADER_MISSING"),
        ([Request(header=pb.DocumentHeader())], InvalidArgument, "FIELD_MISSING"),
        ([Request(header=pb.DocumentHeader(document_id="d" * 201))], InvalidArgument, "FIELD_TOO_LONG"),
        (
            [Request(header=pb.DocumentHeader(document_id="d", content_sha256="X" * 64))],
            InvalidArgument,
            "FIELD_INVALID",
        ),
        (
            [Request(header=pb.DocumentHeader(document_id="d", content_bytes=bounds.DOCUMENT_BYTES + 1))],
            InvalidArgument,
            "DOCUMENT_TOO_LARGE",
        ),
        ([_HEADER], InvalidArgument, "DOCUMENT_EMPTY"),
        ([_HEADER, _chunk(0, b" \n ")], InvalidArgument, "DOCUMENT_EMPTY"),
        ([_HEADER, _HEADER], InvalidArgument, "CHUNK_EXPECTED"),
        ([_HEADER, Request()], InvalidArgument, "CHUNK_EXPECTED"),
        ([_HEADER, _chunk(5)], InvalidArgument, "CHUNK_OUT_OF_ORDER"),
        ([_HEADER, _chunk(0), _chunk(0)], InvalidArgument, "CHUNK_OUT_OF_ORDER"),
        ([_HEADER, _chunk(0, _MIB + b"x")], InvalidArgument, "CHUNK_TOO_LARGE"),
        ([_HEADER, *[_chunk(i * len(_MIB), _MIB) for i in range(17)]], InvalidArgument, "DOCUMENT_TOO_LARGE"),
        ([_HEADER, _chunk(0, b"\xff\xfe")], InvalidArgument, "NOT_UTF8"),
        (
            [Request(header=pb.DocumentHeader(document_id="d.md")), _chunk(0, b"# a\n\nb\n\n" * 20_001)],
            InvalidArgument,
            "DOCUMENT_TOO_MANY_CELLS",
        ),
        (
            [Request(header=pb.DocumentHeader(document_id="d", content_sha256="0" * 64)), _chunk(0)],
            DataLoss,
            "CONTENT_DIFFERS",
        ),
        (
            [Request(header=pb.DocumentHeader(document_id="d", content_bytes=2)), _chunk(0)],
            DataLoss,
            "CONTENT_DIFFERS",
        ),
    ],
)
async def test_a_stream_that_is_wrong_stores_nothing(
    brain: Brain, requests: list[Request], kind: type[MeshError], reason: str
) -> None:
    with pytest.raises(kind) as caught:
        await ingest(brain, Stream(requests))
    assert caught.value.reason == reason
    stats = await brain.stats(pb.StatsRequest(), ACME)
    assert (stats.cells, stats.documents) == (0, 0)


class Faltering(HashingEmbedder):
    """Costly, and fails at the n-th request."""

    costly = True

    def __init__(self, dimensions: int, fails_at: int) -> None:
        super().__init__(dimensions)
        self.fails_at = fails_at
        self.requests = 0
        self.texts = 0

    async def embed(self, texts: Sequence[str]) -> Vectors:
        self.requests += 1
        if self.requests == self.fails_at:
            raise Unavailable("gone", reason="EMBEDDER_UNAVAILABLE")
        self.texts += len(texts)
        return await super().embed(texts)


async def test_an_ingestion_that_broke_off_goes_on_where_it_was(brain: Brain) -> None:
    await ingest(brain, stream("# A\n\nolder version\n"))
    long = "".join(f"# Heading {i}\n\nParagraph number {i}.\n\n" for i in range(600))
    embedder = Faltering(brain.embedder.dimensions, fails_at=3)
    brain.embedder = embedder
    with pytest.raises(Unavailable):
        await ingest(brain, stream(long))
    assert embedder.texts == 512
    assert (await brain.stats(pb.StatsRequest(), ACME)).cells == 1  # the older version, whole
    response = await ingest(brain, stream(long))
    assert (response.cells, response.cells_written, response.cells_removed) == (600, 600, 1)
    assert embedder.texts == 600


def test_passages_are_bounded_overlap_and_leave_nothing_out() -> None:
    sentences = [f"Sentence number {i} says that things follow each other." for i in range(200)]
    pieces = list(split(" ".join(sentences), markdown=False))
    assert len(pieces) > 5
    assert all(len(piece.text) <= LONGEST for piece in pieces)
    for sentence in sentences:
        assert any(sentence in piece.text for piece in pieces)
    for before, after in itertools.pairwise(pieces):
        overlap = before.offset + len(before.text) - after.offset
        assert 0 < overlap <= OVERLAP


def test_a_code_block_stays_whole_where_it_fits() -> None:
    code = "```\n" + "line of code\n" * 40 + "```"
    text = "# H\n\n" + "Words before. " * 60 + "\n\n" + code + "\n\n" + "Words after. " * 60
    assert any(code in piece.text for piece in split(text, markdown=True))


def test_setext_headings_and_levels_make_the_path() -> None:
    text = "Top\n===\n\na\n\nSub\n---\n\nb\n\n### Deep\n\nc\n\n## Next\n\nd\n"
    paths = {piece.text: piece.heading_path for piece in split(text, markdown=True)}
    assert paths == {"a": ("Top",), "b": ("Top", "Sub"), "c": ("Top", "Sub", "Deep"), "d": ("Top", "Next")}


def test_headings_alone_are_content_too() -> None:
    assert [piece.text for piece in split("# Only\n## Headings\n", markdown=True)] == ["# Only\n## Headings"]


@given(st.text(alphabet=st.sampled_from("ab. \n#`~=-\t\r\u2028é"), max_size=4000), st.booleans())
def test_splitting_any_text_keeps_its_words_in_place(text: str, markdown: bool) -> None:
    pieces = list(split(text, markdown=markdown))
    assert bool(pieces) == bool(text.strip())
    covered = [False] * len(text)
    for piece in pieces:
        assert 0 < len(piece.text) <= LONGEST
        assert text[piece.offset : piece.offset + len(piece.text)] == piece.text
        covered[piece.offset : piece.offset + len(piece.text)] = [True] * len(piece.text)
    if not markdown:
        assert all(done or sign.isspace() for done, sign in zip(covered, text, strict=True))
