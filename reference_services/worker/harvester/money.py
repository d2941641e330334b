"""Prices as shops write them, to minor units and a currency.

`1.299,00 €`, `US$ 1,299.00`, `CHF 1'299.-` and `12 500 Ft` all mean something; `1.250` in dinars of three
decimals could mean two things, and is refused. Nothing here guesses by locale: the marks themselves decide,
or the price is bad.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_MINOR = 10**15
"""A price at or past this many minor units is taken for a mistake."""

DECIMALS: dict[str, int] = {
    **dict.fromkeys(("BHD", "JOD", "KWD", "OMR", "TND"), 3),
    **dict.fromkeys(("CLP", "ISK", "JPY", "KRW", "PYG", "UGX", "VND"), 0),
    **dict.fromkeys(
        [
            "AED",
            "ARS",
            "AUD",
            "BAM",
            "BGN",
            "BRL",
            "CAD",
            "CHF",
            "CNY",
            "COP",
            "CZK",
            "DKK",
            "EGP",
            "EUR",
            "GBP",
            "GEL",
            "HKD",
            "HUF",
            "IDR",
            "ILS",
            "INR",
            "KES",
            "MAD",
            "MDL",
            "MXN",
            "MYR",
            "NGN",
            "NOK",
            "NZD",
            "PEN",
            "PHP",
            "PKR",
            "PLN",
            "QAR",
            "RON",
            "RSD",
            "SAR",
            "SEK",
            "SGD",
            "THB",
            "TRY",
            "TWD",
            "UAH",
            "USD",
            "UYU",
            "ZAR",
        ],
        2,
    ),
}
"""Number of decimals of each currency that is accepted (ISO 4217)."""

SYMBOLS: dict[str, str] = {
    "US$": "USD",
    "A$": "AUD",
    "C$": "CAD",
    "NZ$": "NZD",
    "HK$": "HKD",
    "R$": "BRL",
    "$": "USD",
    "€": "EUR",
    "£": "GBP",
    "¥": "JPY",
    "₴": "UAH",
    "₹": "INR",
    "₺": "TRY",
    "₩": "KRW",
    "₪": "ILS",
    "zł": "PLN",
    "Kč": "CZK",
    "Ft": "HUF",
    "грн": "UAH",
}
"""What shops write in place of a code. `kr` is not here: four countries use it."""

_PRICE = re.compile(
    r"(?P<before>[^0-9,.]*)(?P<amount>\.?[0-9](?:[0-9.,'\u2019 ]*[0-9])?)"
    r"(?:[.,](?:-{1,2}|\u2013|\u2014))?(?P<after>[^0-9]*)"
)
_GROUPED = re.compile(
    r"(?P<whole>[0-9]{1,3}(?P<mark>[.,'])[0-9]{3}(?:(?P=mark)[0-9]{3})*)(?:(?!(?P=mark))[.,](?P<part>[0-9]+))?"
)
_PLAIN = re.compile(r"(?P<whole>[0-9]*)(?:[.,](?P<part>[0-9]+))?")
_SYMBOL = {symbol.casefold(): code for symbol, code in SYMBOLS.items()}
_MINUS = str.maketrans("-\u2212", "  ")


class BadPrice(ValueError):
    """A price that does not say what it means.

    Attributes:
        reason: Why, in UPPER_SNAKE_CASE.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Money:
    """An amount of a currency.

    Attributes:
        minor: In minor units (cents).
        currency: ISO 4217 code.
    """

    minor: int
    currency: str

    def __str__(self) -> str:
        places = DECIMALS[self.currency]
        if not places:
            return f"{self.minor} {self.currency}"
        whole, part = divmod(self.minor, 10**places)
        return f"{whole}.{part:0{places}d} {self.currency}"


def read_price(text: str, currency: str = "", default: str = "") -> Money:
    """Reads a price.

    Args:
        text: The price as the feed has it, with or without a currency.
        currency: The feed's currency column; empty where it has none.
        default: Currency to take where neither names one; empty refuses the price.

    Raises:
        BadPrice: `PRICE_MISSING`, `PRICE_NOT_A_NUMBER`, `PRICE_NOT_POSITIVE`, `PRICE_AMBIGUOUS`,
            `PRICE_TOO_PRECISE`, `PRICE_TOO_LARGE`, `CURRENCY_MISSING`, `CURRENCY_UNKNOWN` or
            `CURRENCY_CONFLICT`.
    """
    text = " ".join(text.split())
    if not text:
        raise BadPrice("PRICE_MISSING")
    found = _PRICE.fullmatch(text) if len(text) <= 64 else None
    if found is None:
        raise BadPrice("PRICE_NOT_A_NUMBER")
    beside = f"{found['before']} {found['after']}"
    named = _code(beside.translate(_MINUS), "PRICE_NOT_A_NUMBER")
    code = _agree(_code(currency, "CURRENCY_UNKNOWN"), named, default)
    minor = _minor(found["amount"], DECIMALS[code])
    if minor == 0 or beside.translate(_MINUS) != beside:
        raise BadPrice("PRICE_NOT_POSITIVE")
    if minor >= MAX_MINOR:
        raise BadPrice("PRICE_TOO_LARGE")
    return Money(minor, code)


def _code(text: str, otherwise: str) -> str:
    """The currency that a text names, empty where the text is; `otherwise` is the reason if it looks like none."""
    text = text.strip(" .")
    if not text:
        return ""
    code = _SYMBOL.get(text.casefold(), text.upper())
    if code not in DECIMALS:
        raise BadPrice("CURRENCY_UNKNOWN" if len(text) <= 3 and text.isalpha() else otherwise)
    return code


def _agree(column: str, beside: str, default: str) -> str:
    if column and beside and column != beside:
        raise BadPrice("CURRENCY_CONFLICT")
    code = column or beside or default
    if not code:
        raise BadPrice("CURRENCY_MISSING")
    return code


def _minor(amount: str, places: int) -> int:
    """Minor units of an amount in a currency with `places` decimals.

    Thousands are in threes, with one mark throughout, and what follows another mark are decimals. One mark
    with three digits after it could be either: it groups, for two decimals cannot be three digits; but not
    after a lone zero, and in a currency of three decimals the price is refused.
    """
    amount = re.sub(r"['\u2019 ]", "'", amount)
    grouped, plain = _GROUPED.fullmatch(amount), _PLAIN.fullmatch(amount)
    if grouped and plain and places == 3:
        raise BadPrice("PRICE_AMBIGUOUS")
    found = plain if plain and (grouped is None or amount.startswith("0")) else grouped
    if found is None:
        raise BadPrice("PRICE_NOT_A_NUMBER")
    whole, part = re.sub("[^0-9]", "", found["whole"]), found["part"] or ""
    if part[places:].strip("0"):
        raise BadPrice("PRICE_TOO_PRECISE")
    return int((whole or "0") + part[:places].ljust(places, "0"))
