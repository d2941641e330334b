from __future__ import annotations

import unicodedata

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from reference_services.worker.harvester.cleaning import COLUMNS, Rejected, clean, clean_text, columns_of
from reference_services.worker.harvester.money import DECIMALS, BadPrice, Money, read_price


@pytest.mark.parametrize(
    ("text", "currency", "minor", "code"),
    [
        ("12.50", "EUR", 1250, "EUR"),
        ("1.299,00 €", "", 129900, "EUR"),
        ("US$ 1,299.00", "", 129900, "USD"),
        ("CHF 1'299.\u2013", "", 129900, "CHF"),
        ("1\u202f299,5", "eur", 129950, "EUR"),
        ("12 500 Ft", "", 1250000, "HUF"),
        ("1,299", "EUR", 129900, "EUR"),
        ("1.234.567", "EUR", 123456700, "EUR"),
        ("1,5", "EUR", 150, "EUR"),
        (".5", "EUR", 50, "EUR"),
        ("12.500", "JPY", 12500, "JPY"),
        ("12.00", "JPY", 12, "JPY"),
        ("1.2500", "KWD", 1250, "KWD"),
        ("5,-", "EUR", 500, "EUR"),
        ("1.299,00 €", "EUR", 129900, "EUR"),
    ],
)
def test_prices_are_read_as_shops_write_them(text: str, currency: str, minor: int, code: str) -> None:
    assert read_price(text, currency) == Money(minor, code)


@pytest.mark.parametrize(
    ("text", "currency", "reason"),
    [
        ("", "EUR", "PRICE_MISSING"),
        ("call us", "EUR", "PRICE_NOT_A_NUMBER"),
        ("1,99,99", "EUR", "PRICE_NOT_A_NUMBER"),
        ("1,23.45", "EUR", "PRICE_NOT_A_NUMBER"),
        ("1-2", "EUR", "PRICE_NOT_A_NUMBER"),
        ("1e3", "EUR", "PRICE_NOT_A_NUMBER"),
        ("٣", "EUR", "PRICE_NOT_A_NUMBER"),
        ("-19.99", "EUR", "PRICE_NOT_POSITIVE"),
        ("EUR -1,00", "", "PRICE_NOT_POSITIVE"),
        ("0,00", "EUR", "PRICE_NOT_POSITIVE"),
        ("0.999", "EUR", "PRICE_TOO_PRECISE"),
        ("12.50", "JPY", "PRICE_TOO_PRECISE"),
        ("1.250", "KWD", "PRICE_AMBIGUOUS"),
        ("99999999999999", "EUR", "PRICE_TOO_LARGE"),
        ("9" * 64, "EUR", "PRICE_TOO_LARGE"),
        ("12.50", "", "CURRENCY_MISSING"),
        ("12.50", "XXX", "CURRENCY_UNKNOWN"),
        ("5 kr", "", "CURRENCY_UNKNOWN"),
        ("$ 12.50", "EUR", "CURRENCY_CONFLICT"),
    ],
)
def test_a_price_that_is_none_says_why(text: str, currency: str, reason: str) -> None:
    with pytest.raises(BadPrice) as caught:
        read_price(text, currency)
    assert caught.value.reason == reason


@given(st.sampled_from(sorted(DECIMALS)), st.integers(1, 10**14), st.integers(0, 3))
def test_a_price_comes_back_from_how_it_is_shown(currency: str, minor: int, style: int) -> None:
    price = Money(minor, currency)
    number, _, code = str(price).partition(" ")
    whole, _, part = number.partition(".")
    part += "0" if len(part) == 3 else ""  # three digits alone could be thousands
    group, mark = [("", "."), (",", "."), (".", ","), (" ", ",")][style]
    amount = f"{int(whole):,}".replace(",", group) + (mark + part if part else "")
    written = f"{code} {amount}" if style % 2 else f"{amount} {code}"
    assert read_price(written) == price


@given(st.text(), st.text(max_size=8))
def test_no_text_makes_the_reading_of_a_price_fail(text: str, currency: str) -> None:
    try:
        assert read_price(text, currency, "EUR").minor > 0
    except BadPrice as bad:
        event(bad.reason)


@given(st.dictionaries(st.sampled_from([*COLUMNS, "other"]), st.text(max_size=200)))
def test_no_row_makes_cleaning_fail(row: dict[str, str]) -> None:
    try:
        item = clean(row, "EUR")
    except Rejected as rejected:
        event(rejected.reason)
    else:
        assert item.name == clean_text(item.name) == unicodedata.normalize("NFC", item.name)
        assert item.name.isprintable()
        item.name.encode()


def test_text_is_unescaped_stripped_and_composed() -> None:
    assert clean_text("  Mu\u0308ller &amp;amp; So&#776;hne \x00<b>new</b>\n") == "Müller & Söhne new"
    assert clean_text("5 < 7 > 3") == "5 < 7 > 3"


def test_an_item_keeps_what_holds_and_drops_what_does_not() -> None:
    row = {
        "sku": " A1 ",
        "name": "Cr&eacute;pe pan",
        "price": "9,99",
        "gtin": "4006381333931",
        "url": "javascript:x",
    }
    item = clean({**row, "availability": "In Stock"}, "EUR")
    assert (item.sku, item.name, item.gtin, item.url, item.availability) == (
        "A1",
        "Crépe pan",
        "4006381333931",
        "",
        1,
    )
    assert clean({**row, "gtin": "4006381333932"}, "EUR").gtin == ""
    with pytest.raises(Rejected, match="NAME_TOO_LONG"):
        clean({**row, "name": "x" * 2000}, "EUR")


def test_columns_are_found_under_their_other_names() -> None:
    assert columns_of(["Title", "ID", "Price", "x"]) == {"name": 0, "sku": 1, "price": 2}
    with pytest.raises(Rejected) as caught:
        columns_of(["id", "price"])
    assert caught.value.field == "name"
