"""What was seen at one moment, as an object for JSON. Rates are a second, times are seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from meshkit.cli.sight import iso
from meshkit.cli.top.figures import Row, totals_of
from meshkit.cli.top.rates import Rates
from meshkit.cli.top.screen import Facts


def document(rows: Sequence[Row], facts: Facts) -> dict[str, object]:
    """All that is known; what is not is null."""
    return {
        "at": iso(facts.at),
        "namespace": facts.namespace,
        "registry": facts.registry,
        "doubt": facts.doubt or None,
        "totals": _rounded(asdict(totals_of(rows))),
        "instances": [_instance(row) for row in rows],
    }


def _instance(row: Row) -> dict[str, object]:
    instance, measured = row.seen.instance, row.measured
    return {
        "service": instance.service,
        "instance": instance.instance_id,
        "address": instance.address,
        "zone": instance.zone,
        "version": instance.version,
        "state": row.state,
        "silence": row.seen.silence or None,
        "busy": row.busy,
        "uptime_s": _round(measured.uptime_s if measured else None),
        "loop_lag_s": _round(measured.loop_lag_s if measured else None),
        "lease_age_s": _round(row.lease_age_s),
        "budget": _round(measured.budget if measured else None),
        "callers": row.callers,
        "gates": [asdict(door) for door in row.shut],
        "rates": None if row.rates is None else _rates(row.rates),
    }


def _rates(rates: Rates) -> dict[str, object]:
    return {
        "calls": _round(rates.calls),
        "errors": _round(rates.errors),
        "shed": _round(rates.shed),
        "refused": _round(rates.refused),
        "retries": _round(rates.retries),
        "hedges": _round(rates.hedges),
        "p50_s": _round(rates.p50_s),
        "p99_s": _round(rates.p99_s),
        "methods": [
            {
                "method": each.method,
                "codes": _rounded(each.codes),
                "p50_s": _round(each.p50_s or None),
                "p99_s": _round(each.p99_s or None),
            }
            for each in rates.methods
        ],
        "refusals": _rounded(rates.refusals),
    }


def _rounded(numbers: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _round(number) for name, number in numbers.items()}


def _round(number: float | None) -> float | None:
    """Not finer than anybody measured it."""
    return number if number is None or isinstance(number, int) else round(number, 6)
