"""Rights: meet grants what both sides hold, and nothing else."""

from hypothesis import given
from hypothesis import strategies as st

from meshkit.call import covers
from meshkit.security.rights import is_permission, is_tenant, meet

services, verbs = st.sampled_from(["a", "b", "ab"]), st.sampled_from(["read", "write"])
wanted = st.builds("{}:{}".format, services, verbs)
held = st.frozensets(st.one_of(wanted, services.map("{}:*".format), st.just("*")), max_size=4)


@given(held, held, wanted)
def test_it_grants_exactly_what_both_sides_grant(
    left: frozenset[str], right: frozenset[str], it: str
) -> None:
    assert covers(meet(left, right), it) == (covers(left, it) and covers(right, it))


@given(held, held)
def test_it_is_commutative(left: frozenset[str], right: frozenset[str]) -> None:
    assert meet(left, right) == meet(right, left)


@given(held)
def test_it_is_idempotent(rights: frozenset[str]) -> None:
    assert meet(rights, rights) == rights


@given(held, held, held, wanted)
def test_it_is_associative_in_what_it_grants(
    one: frozenset[str], two: frozenset[str], three: frozenset[str], it: str
) -> None:
    assert covers(meet(meet(one, two), three), it) == covers(meet(one, meet(two, three)), it)


def test_how_rights_are_written() -> None:
    assert all(map(is_permission, ("*", "brain:*", "brain:read", "a-b:c-d")))
    assert not any(
        map(is_permission, ("", "brain", "brain:", ":read", "*:*", "*:read", "brain:re*", "a:b:c"))
    )
    assert all(map(is_tenant, ("*", "acme", "A.b_c-1")))
    assert not any(map(is_tenant, ("", "acme*", "acme:*", "-", ".a", "a b", "a\n", "a" * 65)))
