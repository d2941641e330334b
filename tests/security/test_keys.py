"""Keys: derivation as RFC 5869 has it, rows, and rings in a chain."""

import pytest

from meshkit.security.keys import (
    ChainedRing,
    Grants,
    KeyRow,
    KeyStatus,
    ServiceKeys,
    StaticRing,
    derive,
    full_grants,
    own_ring,
)
from tests.security.handmade import hkdf


def test_the_hkdf_of_these_tests_is_that_of_rfc_5869() -> None:
    expected = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    assert hkdf(b"\x0b" * 22, b"", 42).hex() == expected


@pytest.mark.parametrize("use", ["token", "proof"])
def test_a_key_is_hkdf_of_the_secret_under_the_name_of_its_use(use: str) -> None:
    made = derive(b"s" * 32, namespace="ns", project="shop", service="brain", use=use)  # type: ignore[arg-type]
    assert made == hkdf(b"s" * 32, f"meshkit/v1/ns/shop/brain/{use}".encode())


def test_every_part_of_the_name_makes_another_key() -> None:
    base = {"namespace": "ns", "project": "shop", "service": "brain", "use": "token"}
    others = [{**base, part: value} for part, value in zip(base, ("n2", "p2", "s2", "proof"), strict=True)]
    keys = {derive(b"s" * 32, **names) for names in (base, *others)}  # type: ignore[arg-type]
    assert len(keys) == 5


def test_a_row_with_the_secret_knows_the_keys_of_every_service() -> None:
    row = KeyRow("shop", "k", secret=b"s" * 32)
    keys = row.keys_for("router", own="brain", namespace="ns")
    assert keys is not None
    assert keys.proof == derive(b"s" * 32, namespace="ns", project="shop", service="router", use="proof")


def test_a_row_of_derived_keys_knows_those_of_its_own_service_only() -> None:
    row = KeyRow("shop", "k", keys=ServiceKeys(b"t" * 32, b"p" * 32))
    assert row.keys_for("brain", own="brain", namespace="ns") == row.keys
    assert row.keys_for("router", own="brain", namespace="ns") is None


def test_no_repr_shows_a_key() -> None:
    row = KeyRow("shop", "k", secret=b"secret-of-shop", keys=ServiceKeys(b"token-key", b"proof-key"))
    shown = repr(row) + repr(row.keys)
    assert not [key for key in ("secret-of-shop", "token-key", "proof-key") if key in shown]


async def test_the_own_ring_signs_with_the_newest_and_verifies_with_the_older() -> None:
    ring = own_ring("shop", [("new", "n" * 32), ("old", "o" * 32)])
    new, old = await ring.find("shop", "new"), await ring.find("shop", "old")
    assert new is not None
    assert old is not None
    assert (new.status, old.status) == (KeyStatus.ACTIVE, KeyStatus.RETIRING)
    assert new.grants == full_grants("shop")
    assert new.grants.delegate == {"shop"}
    assert await ring.find("other", "new") is None


async def test_a_row_without_grants_grants_nothing() -> None:
    assert KeyRow("shop", "k").grants == Grants(frozenset(), frozenset(), frozenset(), frozenset())


@pytest.mark.parametrize("order", [0, 1])
async def test_where_rings_disagree_retired_wins(order: int) -> None:
    rings = [
        StaticRing([KeyRow("shop", "k", secret=b"s" * 32)]),
        StaticRing([KeyRow("shop", "k", KeyStatus.RETIRED)]),
    ]
    row = await ChainedRing(rings[::-1] if order else rings).find("shop", "k")
    assert row is not None
    assert row.status is KeyStatus.RETIRED


async def test_the_first_ring_that_has_a_row_counts() -> None:
    wide = StaticRing([KeyRow("shop", "k", grants=full_grants("shop"))])
    narrow = StaticRing([KeyRow("shop", "k")])
    row = await ChainedRing((narrow, wide)).find("shop", "k")
    assert row is not None
    assert row.grants == Grants()
    assert await ChainedRing((narrow, wide)).find("shop", "other") is None
