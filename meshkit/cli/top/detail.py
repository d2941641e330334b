"""What there is to say of one service, or of one instance: methods, refusals, gates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.text import Text

from meshkit.cli.top.columns import NOTHING, Cell
from meshkit.cli.top.figures import Row
from meshkit.cli.top.formats import duration, percent, rate
from meshkit.cli.top.lines import MARGIN, padded, put, shortened
from meshkit.cli.top.rates import MethodRates, Rates, methods_of, refusals_of
from meshkit.cli.top.table import note
from meshkit.telemetry.calls import FAULTS

_TITLES = ("calls/s", "err/s", "err %", "p50", "p99")
_WIDTHS = (8, 6, 6, 7, 7)

UNKNOWN = "unknown methods"
"""What calls of methods are called that the service does not have."""

_LONGEST = 40
"""Characters of a method's name at the most."""


def subject(rows: Sequence[Row]) -> Text:
    """Of what the page is."""
    first = rows[0].seen.instance
    if len(rows) > 1:
        return Text.assemble(
            (first.service, "bold"), f", {len(rows)} instances together; the latencies are of the slowest"
        )
    facts = (first.address, first.zone, "" if first.version == "0.0.0" else first.version, rows[0].state)
    return Text.assemble((first.instance_id, "bold"), *(f"  {fact}" for fact in facts if fact))


class Methods:
    """The methods of some instances together, those that were called of late.

    Args:
        rows: The instances.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        everything = methods_of(_rates(rows))
        self._contracts = {each.method.rpartition("/")[0] for each in everything if each.is_own} - {""}
        self._called = [each for each in everything if _is_told(each)]
        self._uncalled = sum(1 for each in everything if each.is_own) - sum(
            each.is_own for each in self._called
        )
        longest = max((len(self._name(each)) for each in self._called), default=0)
        self._width = min(max(longest, len("method")), _LONGEST)

    def title(self) -> Text:
        """What stands above them."""
        cells = ((Cell(text), width, False) for text, width in zip(_TITLES, _WIDTHS, strict=True))
        return put([(Cell("method"), self._width, True), *cells]).append("  how they ended, a second")

    def lines(self) -> Iterator[Text]:
        """A line each; last those of what every instance serves, where calls of it failed."""
        for each in sorted(self._called, key=lambda method: (not method.is_own, method.method)):
            yield self._line(each)
        if self._uncalled:
            others = "others" if self._called else "methods"
            yield Text(f"{MARGIN}{self._uncalled} {others} were not called of late", "dim")

    def _line(self, method: MethodRates) -> Text:
        failed = "bold red" if method.errors else "dim"
        share = Cell(percent(method.errors / method.calls), failed) if method.calls else NOTHING
        cells = (
            Cell(rate(method.calls), "" if method.calls else "dim"),
            Cell(rate(method.errors), failed),
            share,
            *(Cell(duration(seconds)) if seconds else NOTHING for seconds in (method.p50_s, method.p99_s)),
        )
        name = Cell(shortened(self._name(method), self._width))
        line = put(
            [
                (name, self._width, True),
                *((cell, width, False) for cell, width in zip(cells, _WIDTHS, strict=True)),
            ]
        )
        for code, count in sorted(method.codes.items(), key=_by_weight):
            line.append(f"  {code} {rate(count)}", "bold red" if code in FAULTS else "")
        if not method.is_own:
            line.stylize("dim")
        return line

    def _name(self, method: MethodRates) -> str:
        """The method's own name, with that of its contract where there are several."""
        contract, _, name = method.method.rpartition("/")
        if not contract:
            return UNKNOWN
        if method.is_own and len(self._contracts) == 1:
            return name
        return f"{contract.rpartition('.')[2]}/{name}"


def _is_told(method: MethodRates) -> bool:
    """Whether there is anything to say: it was called of late; of what every instance serves, calls that failed."""
    if method.is_own:
        return bool(method.calls or method.p99_s)
    return not method.codes.keys() <= {"OK"}


def _by_weight(counted: tuple[str, float]) -> tuple[bool, bool, float]:
    """The service's own faults first, successes last."""
    code, count = counted
    return code not in FAULTS, code == "OK", -count


def lines(rows: Sequence[Row]) -> Iterator[Text]:
    """What there is to say besides: what was refused, who shuts whom out, who does not answer."""
    yield from _section("refused before the service's own code saw them, a second", _refusals(rows))
    yield from _section("shut out by callers", _doors(rows))
    yield from _section("no figures", _silent(rows))


def _rates(rows: Sequence[Row]) -> list[Rates]:
    return [row.rates for row in rows if row.rates is not None]


def _section(heading: str, found: Iterator[Text]) -> Iterator[Text]:
    for place, line in enumerate(found):
        if not place:
            yield Text("")
            yield Text(f" {heading}", "bold")
        yield Text("   ").append_text(line)


def _refusals(rows: Sequence[Row]) -> Iterator[Text]:
    for reason, count in refusals_of(_rates(rows)).items():
        yield Text(f"{padded(rate(count), 8, left=False)}  {reason}")


def _doors(rows: Sequence[Row]) -> Iterator[Text]:
    """Two lines for each: an id is long, and why is what matters."""
    for row in rows:
        for door in row.doors:
            if door.is_shut or door.why:
                whom = f" to {row.seen.instance.instance_id}" if len(rows) > 1 else ""
                yield Text(f"{door.caller}{whom}")
                how = f"gate {door.gate}" if door.is_shut else "no connection"
                yield Text.assemble("  ", (how, "bold red"), f": {door.why}")


def _silent(rows: Sequence[Row]) -> Iterator[Text]:
    for row in rows:
        if row.rates is None and (why := note(row)):
            yield Text(row.seen.instance.instance_id)
            yield Text(f"  {why}", "red" if row.state == "silent" else "")
