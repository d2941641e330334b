"""Search: known answers rank first, filters hold, a query is text and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from meshkit import Call, InvalidArgument, Unavailable
from reference_services._gen.contextunity.brain.v1 import brain_pb2 as pb
from reference_services.brain import bounds
from reference_services.brain.embedder import Vectors
from reference_services.brain.fusion import Ranked, fuse, scaled
from reference_services.brain.hashing import HashingEmbedder
from reference_services.brain.service import Brain

ACME = Call.for_test(tenant="acme")

CORPUS = {
    "lease": "A lease is renewed every third of its time to live. A replica that stops renewing is taken out.",
    "drain": "On SIGTERM a service drains: it leaves discovery, waits for the news to spread, ends its calls.",
    "retry": "Idempotent calls are tried again on another instance. One budget bounds retries and hedging.",
    "token": "A token is minted for one audience. Its permissions are cut down to the grants of the key.",
    "proof": "Each request carries a proof: a signature over method, tenant, nonce and the hash of the message.",
    "outlier": "Five consecutive failures shut the gate of an outlier for one second, doubling up to sixty.",
    "zone": "Calls stay in the zone of their caller until its instances are overloaded, then they spill over.",
    "boot": "Configuration is loaded, the port bound, resources opened, then the instance registers itself.",
    "coffee": "Der Kaffee aus der Rösterei in Köln schmeckt nach Nüssen und Schokolade.",
    "jacket": "Wasserdichte Regenjacke für Wanderungen, mit Kapuze und versiegelten Nähten.",
    "kyiv": "Київ — столиця України, місто на Дніпрі з давньою історією.",
    "tokyo": "東京都は日本の首都であり、世界最大の都市圏の一つです。",
    "cafe": "Le café crème se boit le matin, à la terrasse d'une brasserie parisienne.",
    "sku": "Cordless drill AB-1200/X with two batteries and a charger.",
}
QUESTIONS = {
    "how often is a lease renewed?": "lease",
    "What happens on SIGTERM": "drain",
    "are calls that are idempotent retried": "retry",
    "permissions of tokens": "token",
    "what does the signature cover": "proof",
    "consecutive failure": "outlier",
    "availability zones overload": "zone",
    "order in which a service is configured and registered": "boot",
    "kaffee rosterei koln": "coffee",
    "Regenjacken": "jacket",
    "столиця україни": "kyiv",
    "日本の首都": "tokyo",
    "cafe creme": "cafe",
    "ab-1200": "sku",
    "battery drill": "sku",
    "consecutiv failurs": "outlier",
}


async def fill(brain: Brain) -> None:
    cells = [pb.Cell(id=id_, text=text) for id_, text in CORPUS.items()]
    await brain.upsert(pb.UpsertRequest(cells=cells), ACME)


async def hits(brain: Brain, query: str, **fields: object) -> list[pb.Hit]:
    request = pb.SearchRequest(query=query, **fields)  # type: ignore[arg-type]
    return [response.hit async for response in brain.search(request, ACME)]


@pytest.mark.parametrize(("query", "wanted"), QUESTIONS.items())
async def test_the_known_answer_ranks_first(brain: Brain, query: str, wanted: str) -> None:
    await fill(brain)
    assert (await hits(brain, query))[0].cell.id == wanted


async def test_scores_say_where_a_hit_is_from(brain: Brain) -> None:
    await fill(brain)
    first, *others = await hits(brain, "lease renewed")
    assert first.HasField("lexical_score")
    assert first.HasField("vector_score")
    assert 2 / 3 < first.score <= 1
    assert [hit.score for hit in others] == sorted((hit.score for hit in others), reverse=True)
    (lexical,) = await hits(brain, "hedging", mode=pb.SEARCH_MODE_LEXICAL)
    assert lexical.HasField("lexical_score")
    assert not lexical.HasField("vector_score")
    assert lexical.score == pytest.approx(lexical.lexical_score / (1 + lexical.lexical_score))
    near = (await hits(brain, "hedging", mode=pb.SEARCH_MODE_VECTOR))[0]
    assert near.HasField("vector_score")
    assert not near.HasField("lexical_score")
    assert near.score == pytest.approx(near.vector_score)


async def test_a_misspelt_word_is_found_by_its_vector_alone(brain: Brain) -> None:
    await fill(brain)
    await brain.upsert(pb.UpsertRequest(cells=[pb.Cell(id="short", text="Schokolade")]), ACME)
    assert await hits(brain, "schokkolade", mode=pb.SEARCH_MODE_LEXICAL) == []
    assert (await hits(brain, "schokkolade"))[0].cell.id == "short"


@pytest.mark.parametrize(
    "query",
    [
        '"',
        '" OR tenant:*',
        "text:lease",
        "lease NEAR(renewed, 2)",
        "NOT lease",
        "lease AND",
        "^lease",
        "lease*",
        "(((",
        "'; DROP TABLE cells; --",
        "{heading text} : lease",
        "1tlease",
        "2tsecret",
        "\0",
        "%_\\",
        "a" * bounds.QUERY_BYTES,
        "- + * / : ^ ~ ( )",
        "\u0301\u0301",
        "NULL",
    ],
)
async def test_a_query_is_text_whatever_it_holds(brain: Brain, query: str) -> None:
    await fill(brain)
    secret = pb.UpsertRequest(cells=[pb.Cell(id="theirs", text="secret lease")])
    await brain.upsert(secret, Call.for_test(tenant="other"))
    for mode in (pb.SEARCH_MODE_LEXICAL, pb.SEARCH_MODE_VECTOR, pb.SEARCH_MODE_HYBRID):
        assert "theirs" not in [hit.cell.id for hit in await hits(brain, query, mode=mode)]
    assert (await brain.stats(pb.StatsRequest(), ACME)).cells == len(CORPUS)


async def test_operators_are_searched_as_words(brain: Brain) -> None:
    await brain.upsert(pb.UpsertRequest(cells=[pb.Cell(id="a", text="near and not")]), ACME)
    assert [hit.cell.id for hit in await hits(brain, "NOT NEAR", mode=pb.SEARCH_MODE_LEXICAL)] == ["a"]


async def test_the_limit_holds_and_ten_is_the_default(brain: Brain) -> None:
    cells = [pb.Cell(id=str(i), text=f"stone number {i}") for i in range(30)]
    await brain.upsert(pb.UpsertRequest(cells=cells), ACME)
    assert len(await hits(brain, "stone")) == 10
    assert len(await hits(brain, "stone", limit=3)) == 3
    assert len(await hits(brain, "stone", limit=100)) == 30


@pytest.mark.parametrize(
    ("query", "fields", "reason"),
    [
        ("", {}, "FIELD_MISSING"),
        ("  ", {}, "FIELD_MISSING"),
        ("a" * (bounds.QUERY_BYTES + 1), {}, "FIELD_TOO_LONG"),
        ("a", {"limit": 101}, "LIMIT_TOO_LARGE"),
        ("a", {"filter": pb.CellFilter(sources=["a"] * 101)}, "TOO_MANY"),
        ("a", {"filter": pb.CellFilter(document_ids=["a" * 300])}, "FIELD_TOO_LONG"),
    ],
)
async def test_a_request_past_its_bounds_is_refused(
    brain: Brain, query: str, fields: dict[str, object], reason: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await hits(brain, query, **fields)
    assert caught.value.reason == reason


def _filter(**metadata: object) -> pb.CellFilter:
    wanted = pb.CellFilter()
    wanted.metadata.update(metadata)  # type: ignore[arg-type]
    return wanted


@pytest.mark.parametrize("mode", [pb.SEARCH_MODE_LEXICAL, pb.SEARCH_MODE_VECTOR, pb.SEARCH_MODE_HYBRID])
async def test_filters_hold_in_each_mode(brain: Brain, mode: pb.SearchMode.ValueType) -> None:
    one, two = (
        pb.Cell(id="1", text="grey stone", source="quarry"),
        pb.Cell(id="2", text="red stone", source="field"),
    )
    one.metadata.update({"size": 3, "hard": True, "odd'\"key": "x"})
    two.metadata.update({"size": "3", "hard": False})
    one.created_at.FromSeconds(1_000)
    two.created_at.FromSeconds(2_000)
    three = pb.Cell(id="3", text="blue stone", product=pb.Product(sku="3"))
    await brain.upsert(pb.UpsertRequest(cells=[one, two, three]), ACME)

    async def found(wanted: pb.CellFilter) -> list[str]:
        return sorted([hit.cell.id for hit in await hits(brain, "stone", mode=mode, filter=wanted)])

    early, late = pb.CellFilter(), pb.CellFilter()
    early.created_before.FromSeconds(2_000)
    late.created_from.FromSeconds(2_000)
    assert await found(pb.CellFilter()) == ["1", "2", "3"]
    assert await found(pb.CellFilter(sources=["quarry", "field"])) == ["1", "2"]
    assert await found(pb.CellFilter(kinds=[pb.CELL_KIND_PRODUCT])) == ["3"]
    assert await found(pb.CellFilter(kinds=[pb.CELL_KIND_NOTE])) == ["1", "2"]
    assert await found(pb.CellFilter(document_ids=["none"])) == []
    assert await found(early) == ["1"]
    assert await found(late) == ["2", "3"]
    assert await found(_filter(size=3)) == ["1"]
    assert await found(_filter(size="3")) == ["2"]
    assert await found(_filter(hard=True)) == ["1"]
    assert await found(_filter(hard=False, size="3")) == ["2"]
    assert await found(_filter(**{"odd'\"key": "x"})) == ["1"]
    assert await found(_filter(**{"size') OR 1=1 --": 1})) == []


async def test_a_filter_by_a_list_is_refused(brain: Brain) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await hits(brain, "a", filter=_filter(tags=["x"]))
    assert caught.value.reason == "FILTER_INVALID"


class Unreachable(HashingEmbedder):
    async def embed(self, texts: Sequence[str]) -> Vectors:
        raise Unavailable("gone", reason="EMBEDDER_UNAVAILABLE")


async def test_an_error_of_one_ranking_is_the_caller_s_as_it_was(brain: Brain) -> None:
    await fill(brain)
    brain.embedder = Unreachable()
    with pytest.raises(Unavailable) as caught:
        await hits(brain, "lease")
    assert caught.value.reason == "EMBEDDER_UNAVAILABLE"


def test_fusion_averages_what_both_rankings_say() -> None:
    words = scaled([Ranked(1, 8.0), Ranked(2, 6.0)], (0.0, 8.0))
    vectors = scaled([Ranked(2, 0.7), Ranked(3, 0.2)], (0.2, 0.7))
    assert fuse([(words, 1.0), (vectors, 1.0)]) == [
        Ranked(2, pytest.approx(0.875)),
        Ranked(1, pytest.approx(0.5)),
        Ranked(3, pytest.approx(0.0)),
    ]
    assert fuse([({}, 1.0), ({}, 0.5)]) == []


def test_a_chance_likeness_does_not_overtake() -> None:
    words = scaled([Ranked(1, 8.0), Ranked(2, 7.0)], (0.0, 8.0))
    assert fuse([(words, 1.0), (scaled([Ranked(2, 0.12)], (0.1, 0.7)), 0.5)])[0].seq == 1


def test_a_ranking_of_unknown_span_is_scaled_by_itself() -> None:
    assert scaled([Ranked(1, 0.9), Ranked(2, 0.85), Ranked(3, 0.8)], None) == {
        1: pytest.approx(1.0),
        2: pytest.approx(0.5),
        3: 0.0,
    }
    assert scaled([Ranked(1, 0.9)], None) == {1: 1.0}
    assert scaled([], None) == {}


PRODUCTS = [
    pb.Product(
        sku="1",
        name="Trekking boot",
        price_minor=12_999,
        currency="EUR",
        brand="Älpler",
        category="Outdoor > Shoes",
    ),
    pb.Product(
        sku="2",
        name="Rain jacket",
        price_minor=8_999,
        currency="EUR",
        brand="Wetter",
        category="Outdoor > Jackets",
    ),
    pb.Product(
        sku="3",
        name="Rain boot",
        price_minor=2_999,
        currency="USD",
        brand="Wetter",
        category="Outdoor > Shoes",
    ),
    pb.Product(
        sku="4", name="Garden boot", brand="Hof", category="Garden", availability=pb.AVAILABILITY_OUT_OF_STOCK
    ),
    pb.Product(sku="5", name="Outdoors guide", price_minor=0, currency="EUR", category="Outdoor books"),
]


async def fill_products(brain: Brain) -> None:
    cells = [pb.Cell(id=f"p{p.sku}", text=p.name, product=p, source="feed") for p in PRODUCTS]
    note = pb.Cell(id="note", text="boot boot boot")
    await brain.upsert(pb.UpsertRequest(cells=[*cells, note]), ACME)


async def products(brain: Brain, **fields: object) -> list[str]:
    request = pb.SearchProductsRequest(**fields)  # type: ignore[arg-type]
    return [hit.product.sku for hit in (await brain.search_products(request, ACME)).hits]


async def test_products_are_found_by_words_and_filters(brain: Brain) -> None:
    await fill_products(brain)
    assert await products(brain) == ["1", "2", "3", "4", "5"]
    assert sorted(await products(brain, query="boots")) == ["1", "3", "4"]
    assert (await products(brain, query="wetter jacket"))[0] == "2"
    assert await products(brain, currency="EUR", max_price_minor=9_000) == ["2", "5"]
    assert await products(brain, currency="EUR", min_price_minor=8_999, max_price_minor=8_999) == ["2"]
    assert await products(brain, brands=["WETTER", "alpler"]) == ["1", "2", "3"]
    assert await products(brain, categories=["outdoor"]) == ["1", "2", "3"]
    assert await products(brain, categories=["outdoor>shoes"], query="rain") == ["3"]
    assert await products(brain, availabilities=[pb.AVAILABILITY_OUT_OF_STOCK]) == ["4"]
    assert await products(brain, sku="3") == ["3"]
    assert await products(brain, brands=["' OR 1=1 --"]) == []


async def test_a_price_needs_a_currency(brain: Brain) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await products(brain, max_price_minor=5)
    assert caught.value.reason == "CURRENCY_INVALID"


@pytest.mark.parametrize("query", ["", "stone"])
async def test_pages_of_products_hold_each_product_once(brain: Brain, query: str) -> None:
    cells = [
        pb.Cell(id=f"p{i:03}", text="stone", product=pb.Product(sku=str(i), name=f"stone {i}"))
        for i in range(25)
    ]
    await brain.upsert(pb.UpsertRequest(cells=cells), ACME)
    seen: list[str] = []
    request = pb.SearchProductsRequest(query=query, limit=10)
    sizes = []
    while True:
        page = await brain.search_products(request, ACME)
        seen += [hit.product.sku for hit in page.hits]
        sizes.append(len(page.hits))
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert sizes == [10, 10, 5]
    assert sorted(seen, key=int) == [str(i) for i in range(25)]


@pytest.mark.parametrize("change", ["tenant", "filter", "damage", "json"])
async def test_a_page_token_of_another_request_is_refused(brain: Brain, change: str) -> None:
    await fill_products(brain)
    request = pb.SearchProductsRequest(limit=1)
    request.page_token = (await brain.search_products(request, ACME)).next_page_token
    call = Call.for_test(tenant="other") if change == "tenant" else ACME
    match change:
        case "filter":
            request.currency = "EUR"
        case "damage":
            request.page_token = "!" + request.page_token[1:]
        case "json":
            request.page_token = "W10"
    with pytest.raises(InvalidArgument) as caught:
        await brain.search_products(request, call)
    assert caught.value.reason == "PAGE_TOKEN_INVALID"
