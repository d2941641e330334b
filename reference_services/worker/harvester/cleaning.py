"""From a row of a feed, as it came, to an item that can be sold, or to the reason why not."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from reference_services.worker.harvester.money import BadPrice, Money, read_price

COLUMNS: dict[str, tuple[str, ...]] = {
    "sku": ("sku", "id", "article", "article_number", "item_id", "product_id"),
    "name": ("name", "title", "product_name"),
    "price": ("price", "amount", "price_value"),
    "currency": ("currency", "currency_code"),
    "brand": ("brand", "manufacturer", "vendor"),
    "category": ("category", "product_type", "categories"),
    "description": ("description", "summary"),
    "gtin": ("gtin", "ean", "upc", "barcode"),
    "url": ("url", "link"),
    "image_url": ("image_url", "image", "image_link"),
    "availability": ("availability", "stock", "in_stock"),
}
"""The fields of an item, and the column names under which feeds carry them. Other columns are left alone."""

REQUIRED = ("sku", "name", "price")
"""Fields without which a feed is none."""

LIMITS = {
    "sku": 256,
    "name": 1024,
    "brand": 256,
    "category": 256,
    "description": 8192,
    "url": 2048,
    "image_url": 2048,
}
"""Most bytes of UTF-8 in a text; a longer sku, name, address is a reason to reject, the others are cut."""

_AVAILABLE = {"in stock": 1, "in_stock": 1, "yes": 1, "true": 1, "available": 1, "1": 1}
_UNAVAILABLE = {"out of stock": 2, "out_of_stock": 2, "no": 2, "false": 2, "sold out": 2, "0": 2}
_AVAILABILITY = {**_AVAILABLE, **_UNAVAILABLE, "preorder": 3, "pre-order": 3}
_TAG = re.compile(r"<[A-Za-z/!][^<>]{0,200}>")


class Rejected(ValueError):
    """A row that is no item.

    Attributes:
        reason: Why, in UPPER_SNAKE_CASE.
        field: The field that is at fault; empty where it is the whole row.
    """

    def __init__(self, reason: str, field: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.field = field


@dataclass(frozen=True, slots=True)
class Item:
    """A product on offer, clean: NFC text without entities or tags, a price in minor units.

    Attributes:
        sku: The seller's number of the article.
        name: What it is called.
        price: What it costs.
        brand: Maker; may be empty, as all that follows.
        category: Category or path of categories.
        description: Description.
        gtin: 8 to 14 digits whose check digit holds.
        url: Its page.
        image_url: Its picture.
        availability: 0 unknown, 1 in stock, 2 out of stock, 3 to be ordered ahead.
    """

    sku: str
    name: str
    price: Money
    brand: str = ""
    category: str = ""
    description: str = ""
    gtin: str = ""
    url: str = ""
    image_url: str = ""
    availability: int = 0


def columns_of(header: list[str]) -> dict[str, int]:
    """Where in a row each field stands, by the header's names.

    Raises:
        Rejected: `FEED_FORMAT`: a required field has no column.
    """
    names = [clean_text(name).casefold().replace(" ", "_") for name in header]
    places = {
        field: names.index(known)
        for field, aliases in COLUMNS.items()
        if (known := next((alias for alias in aliases if alias in names), None)) is not None
    }
    missing = [field for field in REQUIRED if field not in places]
    if missing:
        raise Rejected("FEED_FORMAT", ", ".join(missing))
    return places


def clean_text(text: str) -> str:
    """One line of NFC text: entities resolved (twice, for feeds that escape twice), tags and control signs gone."""
    for _ in range(2):
        text = html.unescape(text)
    text = unicodedata.normalize("NFC", _TAG.sub(" ", text))
    text = "".join(
        " " if sign.isspace() else sign
        for sign in text
        if sign.isspace() or unicodedata.category(sign) not in ("Cc", "Cf", "Cs", "Co", "Cn")
    )
    return unicodedata.normalize("NFC", " ".join(text.split()))


def clean(row: Mapping[str, str], default_currency: str = "") -> Item:
    """Makes an item of a row.

    Args:
        row: Raw text by field; fields that the feed does not have are absent.
        default_currency: Currency of prices that name none; empty rejects them.

    Raises:
        Rejected: The row is no item. Nothing else is ever raised.
    """
    text = {field: clean_text(row.get(field, "")) for field in LIMITS}
    for field in ("sku", "name"):
        if not text[field]:
            raise Rejected(f"{field.upper()}_MISSING", field)
    for field in ("sku", "name", "url", "image_url"):
        if len(text[field].encode()) > LIMITS[field]:
            raise Rejected(f"{field.upper()}_TOO_LONG", field)
    try:
        price = read_price(
            clean_text(row.get("price", "")), clean_text(row.get("currency", "")), default_currency
        )
    except BadPrice as error:
        raise Rejected(error.reason, "currency" if error.reason.startswith("CURRENCY") else "price") from None
    for field in ("brand", "category", "description"):
        text[field] = _cut(text[field], LIMITS[field])
    for field in ("url", "image_url"):
        if not text[field].startswith(("https://", "http://")) or " " in text[field]:
            text[field] = ""
    availability = _AVAILABILITY.get(clean_text(row.get("availability", "")).casefold(), 0)
    return Item(price=price, gtin=_gtin(clean_text(row.get("gtin", ""))), availability=availability, **text)


def _cut(text: str, limit: int) -> str:
    return text.encode()[:limit].decode(errors="ignore").rstrip()


def _gtin(text: str) -> str:
    """The GTIN where its check digit holds (GS1 General Specifications 7.9); otherwise nothing."""
    digits = text.replace(" ", "").replace("-", "")
    if not (digits.isascii() and digits.isdecimal() and len(digits) in (8, 12, 13, 14)):
        return ""
    weighted = sum(int(digit) * (3 if place % 2 else 1) for place, digit in enumerate(reversed(digits)))
    return digits if weighted % 10 == 0 else ""
