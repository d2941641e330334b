"""The audit log: whatever is changed, put in, taken out, moved or cut off is found, and where."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_services.shield.audit import Chain, Entry, Event, Mark
from reference_services.shield.sealing import Master

CHAIN = Chain(Master(bytes(32)))


def log(count: int = 6, chain: Chain = CHAIN) -> tuple[Mark, Mark, list[Entry]]:
    base, head = chain.start()
    entries = []
    for number in range(count):
        event = Event(1.5 * number, f"shop/{number}", "issue", {"token_id": f"j{number}", "tenants": ["a"]})
        entry = chain.link(event, head)
        head = chain.head(entry.number, entry.mac)
        entries.append(entry)
    return base, head, entries


def test_a_log_that_nobody_touched_holds() -> None:
    assert CHAIN.fault(*log()) is None
    assert CHAIN.fault(*log(0)) is None


@given(place=st.integers(0, 5), field=st.sampled_from(["at", "actor", "action", "details", "mac"]))
def test_a_change_is_found_where_it_is(place: int, field: str) -> None:
    base, head, entries = log()
    changed: Any = {"at": 9.0, "mac": bytes(32)}.get(field, "something else")
    entries[place] = dataclasses.replace(entries[place], **{field: changed})
    fault = CHAIN.fault(base, head, entries)
    assert fault is not None
    assert f"entry {place + 1}" in fault


@given(st.integers(0, 4))
def test_an_entry_that_was_taken_out_is_missed(place: int) -> None:
    base, head, entries = log()
    del entries[place]
    assert CHAIN.fault(base, head, entries) == f"entries {place + 1} to {place + 1} are missing"


@given(st.integers(0, 5))
def test_a_log_that_was_cut_short_is_found_out(kept: int) -> None:
    base, head, entries = log()
    fault = CHAIN.fault(base, head, entries[:kept])
    assert fault == f"the log was cut short: it ends with entry {kept}, and entry 6 was the last one"


def test_neither_mark_can_be_made_to_fit_without_the_master_key() -> None:
    base, head, entries = log()
    shorter = Mark(3, entries[2].mac, head.seal)
    assert CHAIN.fault(base, shorter, entries[:3]) == "the mark of where the log ends was changed"
    later = Mark(3, entries[2].mac, base.seal)
    assert CHAIN.fault(later, head, entries[3:]) == "the mark of where the log begins was changed"
    assert CHAIN.fault(dataclasses.replace(head), head, []) == "the mark of where the log begins was changed"


def test_entries_that_changed_places_are_found() -> None:
    base, head, entries = log()
    entries[1], entries[2] = (
        dataclasses.replace(entries[2], number=2),
        dataclasses.replace(entries[1], number=3),
    )
    assert "entry 2" in str(CHAIN.fault(base, head, entries))


def test_another_master_key_makes_no_log_that_holds() -> None:
    base, head, entries = log(chain=Chain(Master(b"1" * 32)))
    assert CHAIN.fault(base, head, entries) is not None
    own_base, _, _ = log()
    assert CHAIN.fault(own_base, CHAIN.head(6, entries[-1].mac), entries) is not None


def test_a_log_whose_oldest_entries_are_forgotten_holds() -> None:
    _, head, entries = log()
    assert CHAIN.fault(CHAIN.base(4, entries[3].mac), head, entries[4:]) is None
    assert CHAIN.fault(CHAIN.base(6, entries[5].mac), head, []) is None


def test_a_master_key_has_its_size() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Master(b"short")
