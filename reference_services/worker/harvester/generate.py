"""Makes a product feed with the dirt of real ones: `python -m reference_services.worker.harvester.generate OUT`.

The same seed gives the same bytes. `data/products.csv` is `--rows 2400 --seed 7`. What is in it, per 2,400
good items:

- good rows in many dresses: entities, tags, non-ASCII names in NFC and NFD, padded cells, quoted commas,
  quotes and line breaks, prices with symbols, codes, decimal commas and thousands separators;
- about 4 % of the items a second time: half of them as they were, half with a newer price further down;
- about 5 % rows that are none: prices that are text, negative, zero, without a currency, of an unknown one;
  too few or too many columns; stray quotes; bytes that are not UTF-8; no sku, no name;
- empty lines, and lines of blanks.
"""

from __future__ import annotations

import argparse
import random
import unicodedata
from pathlib import Path

HEADER = (
    "sku",
    "name",
    "brand",
    "category",
    "price",
    "currency",
    "gtin",
    "availability",
    "url",
    "description",
)

_THINGS = {
    "Garden > Tools": [
        "spade",
        "pruning shears",
        "watering can",
        "garden hose",
        "wheelbarrow",
        "leaf rake",
        "trowel",
    ],
    "Kitchen > Cookware": [
        "cast-iron skillet",
        "saucepan",
        "stockpot",
        "chef's knife",
        "crêpe pan",
        "fondue set",
    ],
    "Office > Paper": ["notebook", "sketchbook", "desk pad", "index cards", "letter tray", "fountain pen"],
    "Outdoor > Camping": [
        "two-person tent",
        "sleeping bag",
        "camping stove",
        "headlamp",
        "rain cover",
        "trekking poles",
    ],
    "Home > Lighting": [
        "desk lamp",
        "pendant lamp",
        "LED strip",
        "floor lamp",
        "candle holder",
        "night light",
    ],
    "Sport > Cycling": ["bicycle helmet", "chain lock", "saddle bag", "floor pump", "bottle cage", "bell"],
}
_BRANDS = [
    "Nordlys",
    "Müller & Söhne",
    "Café Crème",
    "Łódź Works",
    "Škoda Garden",
    "Ørsted Outdoor",
    "Piñata",
    "東雲",
    "Zorka",
]
_MATERIALS = [
    "oak",
    "steel",
    "linen",
    "recycled plastic",
    "brass",
    "wool",
    "aluminium",
    "bamboo",
    "cork",
    "ceramic",
]
_COLOURS = [
    "green",
    "anthracite",
    "crème",
    "sky blue",
    "rosé",
    "black",
    "natural",
    "fuchsia",
    "Olivgrün",
    "azurová",
]
_NOTES = [
    "Made to last; spare parts for ten years.",
    "Holds 1,5 l. Hand wash only.",
    "Winner of the &quot;Good Form&quot; prize",
    "Suits left- and right-handed people &amp; children",
    "<p>Soft, light and <b>warm</b>.</p>",
    "Größe verstellbar — passt immer",
    'The so-called "classic", in a box',
    "First line of the text\nsecond line of the text",
]


def main(argv: list[str] | None = None) -> None:
    """Writes a feed; see `--help`."""
    parser = argparse.ArgumentParser(description="Writes a product feed (CSV) with the dirt of real ones.")
    parser.add_argument("out", type=Path, help="file to write")
    parser.add_argument("--rows", type=int, default=2400, help="number of good items (default 2400)")
    parser.add_argument("--seed", type=int, default=7, help="the same seed gives the same bytes (default 7)")
    options = parser.parse_args(argv)
    options.out.write_bytes(feed(options.rows, options.seed))


def feed(rows: int, seed: int) -> bytes:
    """A feed as bytes.

    Args:
        rows: Number of good items, each with a sku of its own.
        seed: Seed of its randomness.
    """
    chance = random.Random(seed)
    lines = [_line(_item(number, chance), chance) for number in range(rows)]
    return b"".join([(",".join(HEADER) + "\r\n").encode(), *_with_dirt(rows, lines, chance)])


def _with_dirt(rows: int, lines: list[bytes], chance: random.Random) -> list[bytes]:
    """The good lines with repeats after their firsts, bad rows and blank lines anywhere."""
    placed = [(float(place), line) for place, line in enumerate(lines)]
    for count, number in enumerate(sorted(chance.sample(range(rows), max(2, rows // 25)))):
        line = lines[number]
        if count % 2:
            line = _line(_item(number, chance), chance)
        placed.append((chance.uniform(number + 0.5, rows), line))
    for number in range(max(24, rows // 20)):
        placed.append((chance.uniform(0, rows), _bad(number, chance)))
    for number in range(max(6, rows // 100)):
        placed.append((chance.uniform(0, rows), (b"\r\n", b"   \r\n", b"\n")[number % 3]))
    return [line for _, line in sorted(placed, key=lambda pair: pair[0])]


def _item(number: int, chance: random.Random) -> dict[str, str]:
    """The cells of an item: what it is depends on its number alone, what it costs on chance."""
    own = random.Random(number * 2654435761)
    category = own.choice(sorted(_THINGS))
    thing, material, colour = own.choice(_THINGS[category]), own.choice(_MATERIALS), own.choice(_COLOURS)
    brand, sku = own.choice(_BRANDS), f"SKU-{number:05d}"
    name = f"{brand} {thing}, {material}, {colour} #{number}"
    cents = chance.randrange(199, 250_000)
    currency = own.choice(["EUR", "EUR", "EUR", "PLN", "CZK", "USD", "GBP", "UAH", "JPY"])
    price, code = _dress(cents, currency, chance)
    return {
        "sku": sku,
        "name": _dirty(name, own),
        "brand": brand.replace("&", "&amp;"),
        "category": category.replace(">", "&gt;") if own.random() < 0.3 else category,
        "price": price,
        "currency": code,
        "gtin": _gtin(own) if own.random() < 0.8 else "n/a",
        "availability": own.choice(["in stock", "out of stock", "preorder", "yes", "0", ""]),
        "url": f"https://shop-a.example/p/{sku.lower()}",
        "description": own.choice(_NOTES),
    }


def _dress(cents: int, currency: str, chance: random.Random) -> tuple[str, str]:
    """A price as some shop would write it, and its currency column."""
    if currency == "JPY":
        yen = max(1, cents // 10)
        return (f"¥{yen:,}", "") if chance.random() < 0.5 else (str(yen), "JPY")
    plain = f"{cents // 100}.{cents % 100:02d}"
    english, german = (
        f"{cents // 100:,}.{cents % 100:02d}",
        f"{cents // 100:,}".replace(",", ".") + f",{cents % 100:02d}",
    )
    swiss, french = english.replace(",", "'"), german.replace(".", "\u00a0")
    symbol = {"EUR": "€", "USD": "$", "GBP": "£", "PLN": "zł", "CZK": "Kč", "UAH": "₴"}[currency]
    return chance.choice(
        [
            *[(plain, currency)] * 6,
            (plain, currency.lower()),
            (english, currency),
            (german, currency),
            (swiss, currency),
            (french, currency),
            (f"{german} {symbol}", ""),
            (f"{symbol} {english}", ""),
            (f"{currency} {plain}", ""),
            (f"  {german} {currency} ", currency),
        ]
    )


def _dirty(name: str, own: random.Random) -> str:
    wear = own.random()
    if wear < 0.08:
        return unicodedata.normalize("NFD", name)
    if wear < 0.16:
        return f"  {name.replace(' ', '  ', 1)} "
    if wear < 0.24:
        return name.replace("&", "&amp;").replace("é", "&eacute;").replace("ü", "&#252;")
    return name


def _line(cells: dict[str, str], chance: random.Random) -> bytes:
    """A row of CSV, quoted where it must be and sometimes where it need not."""
    written = []
    for column in HEADER:
        cell = cells[column]
        if any(sign in cell for sign in ',"\n') or chance.random() < 0.05:
            cell = '"' + cell.replace('"', '""') + '"'
        written.append(cell)
    return (",".join(written) + "\r\n").encode()


def _bad(number: int, chance: random.Random) -> bytes:
    """A row that is no item, of the kind that the number says."""
    cells = _item(900_000 + number, chance) | {
        "sku": f"BAD-{number:04d}",
        "price": "12.50",
        "currency": "EUR",
    }
    plain = {**cells, "name": "Plain thing", "brand": "Zorka", "description": "None"}
    kinds: list[dict[str, str]] = [
        {"price": "call us"},
        {"price": "-19.99"},
        {"price": "0,00"},
        {"currency": ""},
        {"currency": "XXX"},
        {"price": ""},
        {"price": "12.345,678,9"},
        {"price": "$ 12.50", "currency": "EUR"},
        {"sku": "  "},
        {"name": "&nbsp;"},
        {"price": "1,99,99"},
    ]
    kind = number % (len(kinds) + 5)
    if kind < len(kinds):
        return _line({**cells, **kinds[kind]}, chance)
    row = ",".join(plain[column] for column in HEADER)
    return [
        (",".join(row.split(",")[:4]) + "\r\n").encode(),
        (row + ",one,two\r\n").encode(),
        (row.replace("Plain thing", '"Plain 5" thing') + "\r\n").encode(),
        (row.replace("Plain thing", '"Plain thing') + "\r\n").encode(),
        row.replace("Plain thing", "Kaffeemühle").encode("latin-1") + b"\r\n",
    ][kind - len(kinds)]


def _gtin(own: random.Random) -> str:
    """A GTIN-13 whose check digit holds, from the range 200-299 that is kept for use inside a shop."""
    body = f"2{own.randrange(10**11):011d}"
    weighted = sum(int(digit) * (3 if place % 2 else 1) for place, digit in enumerate(body))
    return f"{body}{-weighted % 10}"


if __name__ == "__main__":
    main()
