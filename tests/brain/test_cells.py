"""Cells: stored, read, changed, removed."""

from __future__ import annotations

import math

import pytest

from meshkit import Call, InvalidArgument
from reference_services._gen.contextunity.brain.v1 import brain_pb2 as pb
from reference_services.brain import bounds
from reference_services.brain.service import Brain

ACME = Call.for_test(tenant="acme")
OTHER = Call.for_test(tenant="other")
Outcome = pb.UpsertOutcome


async def put(brain: Brain, *cells: pb.Cell, call: Call = ACME, **if_match: str) -> list[Outcome]:
    response = await brain.upsert(pb.UpsertRequest(cells=cells, if_match=if_match), call)
    return list(response.outcomes)


async def get(brain: Brain, *ids: str, call: Call = ACME) -> list[pb.Cell]:
    return list((await brain.get(pb.GetRequest(ids=ids), call)).cells)


async def find(brain: Brain, query: str, call: Call = ACME, **fields: object) -> list[str]:
    request = pb.SearchRequest(query=query, **fields)  # type: ignore[arg-type]
    return [response.hit.cell.id async for response in brain.search(request, call)]


async def test_a_cell_comes_back_as_it_was_stored(brain: Brain) -> None:
    cell = pb.Cell(id="a", text="Grüße aus Köln", source="letters")
    cell.metadata.update({"page": 3, "tags": ["x", {"y": None}], "ok": True})
    cell.created_at.FromSeconds(1_500_000_000)
    (outcome,) = await put(brain, cell)
    (stored,) = await get(brain, "a")
    assert outcome.status == Outcome.STATUS_CREATED
    assert stored.etag == outcome.etag
    assert (stored.text, stored.source, stored.metadata) == (cell.text, cell.source, cell.metadata)
    assert stored.created_at == cell.created_at
    assert stored.updated_at.seconds >= 1_700_000_000


async def test_a_nul_in_free_text_is_kept(brain: Brain) -> None:
    cell = pb.Cell(id="a", text="before\0after", product=pb.Product(sku="1", name="na\0me"))
    cell.metadata.update({"note": "x\0y", "plain": "z"})
    await put(brain, cell)
    (stored,) = await get(brain, "a")
    assert (stored.text, stored.metadata, stored.product) == (cell.text, cell.metadata, cell.product)
    assert await find(brain, "after") == ["a"]
    wanted = pb.CellFilter()
    wanted.metadata.update({"plain": "z"})
    assert await find(brain, "before", filter=wanted) == ["a"]


async def test_a_repeat_changes_nothing(brain: Brain) -> None:
    cell = pb.Cell(id="a", text="one")
    (first,) = await put(brain, cell)
    (before,) = await get(brain, "a")
    (again,) = await put(brain, cell)
    assert again.status == Outcome.STATUS_UNCHANGED
    assert again.etag == first.etag
    assert await get(brain, "a") == [before]


async def test_a_change_keeps_the_time_of_creation(brain: Brain) -> None:
    await put(brain, pb.Cell(id="a", text="one"))
    (before,) = await get(brain, "a")
    (outcome,) = await put(brain, pb.Cell(id="a", text="two"))
    (after,) = await get(brain, "a")
    assert outcome.status == Outcome.STATUS_UPDATED
    assert after.created_at == before.created_at
    assert after.updated_at.seconds > before.updated_at.seconds
    assert await find(brain, "one") == []
    assert await find(brain, "two") == ["a"]


async def test_a_change_of_metadata_alone_keeps_the_cell_findable(brain: Brain) -> None:
    await put(brain, pb.Cell(id="a", text="granite"))
    changed = pb.Cell(id="a", text="granite")
    changed.metadata.update({"shelf": 2})
    (outcome,) = await put(brain, changed)
    assert outcome.status == Outcome.STATUS_UPDATED
    assert await find(brain, "granite", mode=pb.SEARCH_MODE_VECTOR) == ["a"]


async def test_a_cell_without_an_id_is_named_by_its_content(brain: Brain) -> None:
    (first,) = await put(brain, pb.Cell(text="one", source="s"))
    (again,) = await put(brain, pb.Cell(text="one", source="s"))
    (other,) = await put(brain, pb.Cell(text="one", source="t"))
    assert first.id == again.id != other.id
    assert again.status == Outcome.STATUS_UNCHANGED


async def test_an_etag_that_does_not_match_is_a_conflict_of_that_cell_alone(brain: Brain) -> None:
    (first,) = await put(brain, pb.Cell(id="a", text="one"))
    await put(brain, pb.Cell(id="a", text="two"))
    lost, fresh = await put(
        brain, pb.Cell(id="a", text="three"), pb.Cell(id="b", text="new"), a=first.etag, b=""
    )
    assert lost.status == Outcome.STATUS_CONFLICT
    assert fresh.status == Outcome.STATUS_CREATED
    (stored,) = await get(brain, "a")
    assert stored.text == "two"
    assert lost.etag == stored.etag
    (won,) = await put(brain, pb.Cell(id="a", text="three"), a=lost.etag)
    assert won.status == Outcome.STATUS_UPDATED


async def test_must_not_exist_and_must_exist_are_kept(brain: Brain) -> None:
    await put(brain, pb.Cell(id="a", text="one"))
    (exists,) = await put(brain, pb.Cell(id="a", text="two"), a="")
    (absent,) = await put(brain, pb.Cell(id="b", text="two"), b="0123")
    assert [exists.status, absent.status] == [Outcome.STATUS_CONFLICT, Outcome.STATUS_CONFLICT]
    assert absent.etag == ""


async def test_the_retry_of_a_conditional_write_is_no_conflict(brain: Brain) -> None:
    (first,) = await put(brain, pb.Cell(id="a", text="one"))
    await put(brain, pb.Cell(id="a", text="two"), a=first.etag)
    (retried,) = await put(brain, pb.Cell(id="a", text="two"), a=first.etag)
    assert retried.status == Outcome.STATUS_UNCHANGED


async def test_deleted_cells_are_gone_from_all_indexes(brain: Brain) -> None:
    await put(brain, pb.Cell(id="a", text="granite"), pb.Cell(id="b", text="granite stone"))
    assert len(await find(brain, "granite", mode=pb.SEARCH_MODE_VECTOR)) == 2
    response = await brain.delete(pb.DeleteRequest(ids=["a", "nothing"]), ACME)
    assert response.deleted_cells == 1
    for mode in (pb.SEARCH_MODE_LEXICAL, pb.SEARCH_MODE_VECTOR, pb.SEARCH_MODE_HYBRID):
        assert await find(brain, "granite", mode=mode) == ["b"]
    assert (await brain.delete(pb.DeleteRequest(ids=["a"]), ACME)).deleted_cells == 0


async def test_get_keeps_the_order_and_names_what_is_missing(brain: Brain) -> None:
    await put(brain, pb.Cell(id="a", text="1"), pb.Cell(id="b", text="2"))
    response = await brain.get(pb.GetRequest(ids=["b", "x", "a"]), ACME)
    assert [cell.id for cell in response.cells] == ["b", "a"]
    assert response.missing_ids == ["x"]


def _deep(levels: int) -> dict[str, object]:
    return {"a": _deep(levels - 1)} if levels > 1 else {"a": 1}


def _with_metadata(data: dict[str, object]) -> pb.Cell:
    cell = pb.Cell(id="a", text="x")
    cell.metadata.update(data)  # type: ignore[arg-type]
    return cell


def _product(**fields: object) -> pb.Cell:
    return pb.Cell(id="a", text="x", product=pb.Product(**{"sku": "1", **fields}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ([], "FIELD_MISSING"),
        ([pb.Cell(id="a")], "FIELD_MISSING"),
        ([pb.Cell(id="a", text="x"), pb.Cell(id="a", text="y")], "DUPLICATE_ID"),
        ([pb.Cell(id=str(i), text="x") for i in range(bounds.CELLS + 1)], "TOO_MANY"),
        ([pb.Cell(id="a" * 257, text="x")], "FIELD_TOO_LONG"),
        ([pb.Cell(id="ü" * 129, text="x")], "FIELD_TOO_LONG"),
        ([pb.Cell(id="a\0", text="x")], "FIELD_INVALID"),
        ([pb.Cell(id="a", text="x" * (bounds.TEXT_BYTES + 1))], "FIELD_TOO_LONG"),
        ([_with_metadata({"a": "x" * bounds.METADATA_BYTES})], "METADATA_TOO_LARGE"),
        ([_with_metadata(_deep(9))], "METADATA_INVALID"),
        ([_with_metadata({"a": math.nan})], "METADATA_INVALID"),
        ([_product(sku="")], "FIELD_MISSING"),
        ([_product(price_minor=-1, currency="EUR")], "PRICE_INVALID"),
        ([_product(price_minor=1)], "CURRENCY_INVALID"),
        ([_product(price_minor=1, currency="eur")], "CURRENCY_INVALID"),
        ([_product(gtin="123")], "GTIN_INVALID"),
    ],
)
async def test_what_passes_a_bound_is_refused_by_name(
    brain: Brain, cells: list[pb.Cell], reason: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await put(brain, *cells)
    assert caught.value.reason == reason
    assert (await brain.stats(pb.StatsRequest(), ACME)).cells == 0


async def test_what_is_at_a_bound_is_taken(brain: Brain) -> None:
    await put(brain, pb.Cell(id="a" * 256, text="x" * bounds.TEXT_BYTES), _with_metadata(_deep(8)))
    assert (await brain.stats(pb.StatsRequest(), ACME)).cells == 2


async def test_if_match_for_a_cell_that_is_not_there_is_refused(brain: Brain) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await put(brain, pb.Cell(id="a", text="x"), b="")
    assert caught.value.reason == "IF_MATCH_UNKNOWN"


async def versioned(brain: Brain, text: str, version: int | None) -> Outcome:
    versions = {} if version is None else {"a": version}
    request = pb.UpsertRequest(cells=[pb.Cell(id="a", text=text)], versions=versions)
    (outcome,) = (await brain.upsert(request, ACME)).outcomes
    return outcome


async def test_an_older_version_does_not_undo_a_later_one(brain: Brain) -> None:
    assert (await versioned(brain, "five", 5)).status == Outcome.STATUS_CREATED
    stored = await get(brain, "a")
    stale = await versioned(brain, "four", 4)
    assert (stale.status, stale.etag) == (Outcome.STATUS_STALE, stored[0].etag)
    assert await get(brain, "a") == stored
    assert (await versioned(brain, "five, mended", 5)).status == Outcome.STATUS_UPDATED
    assert (await versioned(brain, "seven", 2**63 - 1)).status == Outcome.STATUS_UPDATED
    assert (await versioned(brain, "six", 6)).status == Outcome.STATUS_STALE


async def test_a_later_version_with_the_same_content_still_counts(brain: Brain) -> None:
    await versioned(brain, "the same", 5)
    stored = await get(brain, "a")
    assert (await versioned(brain, "the same", 7)).status == Outcome.STATUS_UNCHANGED
    assert (await versioned(brain, "in between", 6)).status == Outcome.STATUS_STALE
    assert (await versioned(brain, "the same", 4)).status == Outcome.STATUS_UNCHANGED
    assert (await versioned(brain, "in between", 6)).status == Outcome.STATUS_STALE
    assert await get(brain, "a") == stored


async def test_a_write_without_a_version_is_made_and_keeps_the_highest(brain: Brain) -> None:
    await versioned(brain, "five", 5)
    assert (await versioned(brain, "by hand", None)).status == Outcome.STATUS_UPDATED
    assert (await versioned(brain, "four", 4)).status == Outcome.STATUS_STALE
    await brain.delete(pb.DeleteRequest(ids=["a"]), ACME)
    assert (await versioned(brain, "one", 1)).status == Outcome.STATUS_CREATED


@pytest.mark.parametrize(
    ("versions", "reason"), [({"b": 1}, "VERSIONS_UNKNOWN"), ({"a": 2**63}, "VERSION_INVALID")]
)
async def test_versions_that_make_no_sense_are_refused(
    brain: Brain, versions: dict[str, int], reason: str
) -> None:
    request = pb.UpsertRequest(cells=[pb.Cell(id="a", text="x")], versions=versions)
    with pytest.raises(InvalidArgument) as caught:
        await brain.upsert(request, ACME)
    assert caught.value.reason == reason


async def test_another_tenant_sees_changes_and_counts_nothing(brain: Brain) -> None:
    product = pb.Product(sku="1", name="granite")
    await put(brain, pb.Cell(id="a", text="granite", product=product))
    assert await get(brain, "a", call=OTHER) == []
    for mode in (pb.SEARCH_MODE_LEXICAL, pb.SEARCH_MODE_VECTOR, pb.SEARCH_MODE_HYBRID):
        assert await find(brain, "granite", OTHER, mode=mode) == []
    await put(brain, pb.Cell(id="a", text="chalk"), call=OTHER)
    assert await find(brain, "granite", OTHER) == []
    assert (await get(brain, "a"))[0].text == "granite"
    assert (await brain.delete(pb.DeleteRequest(ids=["a"]), OTHER)).deleted_cells == 1
    assert (await get(brain, "a"))[0].text == "granite"
    assert not (await brain.search_products(pb.SearchProductsRequest(), OTHER)).hits
    assert not (await brain.search_products(pb.SearchProductsRequest(query="granite"), OTHER)).hits
    assert (await brain.stats(pb.StatsRequest(), OTHER)).cells == 0
    assert (await brain.stats(pb.StatsRequest(), ACME)).products == 1


async def test_words_of_other_tenants_do_not_make_a_word_common(brain: Brain) -> None:
    await put(brain, pb.Cell(id="a", text="granite and chalk"), pb.Cell(id="b", text="slate"))
    request = pb.SearchRequest(query="granite", mode=pb.SEARCH_MODE_LEXICAL)
    before = [r.hit.lexical_score async for r in brain.search(request, ACME)]
    await put(brain, *[pb.Cell(id=f"{i}", text="granite granite chalk") for i in range(50)], call=OTHER)
    after = [r.hit.lexical_score async for r in brain.search(request, ACME)]
    # the word's frequency is the tenant's own; in SQLite, what is left is the number of rows in the file
    assert len(before) == len(after) == 1
    assert after[0] >= before[0]


async def test_stats_say_what_there_is(brain: Brain, storage: tuple[str, int]) -> None:
    await put(brain, pb.Cell(id="a", text="four"), pb.Cell(id="b", text="Ö", product=pb.Product(sku="1")))
    stats = await brain.stats(pb.StatsRequest(), ACME)
    assert (stats.cells, stats.text_bytes, stats.products) == (2, 6, 1)
    assert (stats.embedder, stats.embedding_dimensions) == ("hashing-v1", 384)
    assert (stats.storage, stats.schema_version) == storage
    assert stats.HasField("updated_at")
