"""What a token may say: never more than is granted, and on behalf of somebody never more than that one may."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit import MeshError, Principal
from meshkit.authority import Actor, Grants, Verified
from meshkit.call import covers
from reference_services.shield.model import Project
from reference_services.shield.policy import Asked, exchange, issue

NOW = 1_800_000_000.0
SHOP = Project(
    "shop",
    tenants=frozenset({"acme", "beta"}),
    permissions=frozenset({"brain:*", "zero:mask"}),
    subjects=frozenset({"router"}),
    audiences=frozenset({"brain", "zero"}),
    delegate=frozenset({"shop"}),
)
ROUTER = Principal("shop", "router")


def asked(
    audience: str = "brain", tenants: Any = ("acme",), permissions: Any = ("*",), lifetime: float = 0
) -> Asked:
    return Asked(audience, frozenset(tenants), frozenset(permissions), lifetime)


def subject(
    *,
    tenants: Any = ("acme",),
    permissions: Any = ("*",),
    project: str = "shop",
    depth: int = 0,
    ends: float = 300,
) -> Verified:
    held = Principal(project, "ada", frozenset(permissions), frozenset(tenants), "j", NOW + ends, NOW)
    actors = tuple(Actor(project, f"a{number}", "j") for number in range(depth))
    on_behalf = held if depth else None
    return Verified(held, held, Grants(), "router", "EdDSA", "shield:k1", "", b"", on_behalf, actors)


def exchanged(of: Verified, wanted: Asked, project: Project = SHOP) -> Any:
    return exchange(project, ROUTER, of, wanted, longest=300, now=NOW)


def test_all_that_is_granted_is_given_where_all_is_asked_for() -> None:
    allowed = issue(SHOP, ROUTER, asked(), longest=300)
    assert (allowed.permissions, allowed.tenants, allowed.lifetime) == (SHOP.permissions, {"acme"}, 300)


def test_what_is_not_granted_is_left_out() -> None:
    allowed = issue(SHOP, ROUTER, asked(permissions=("brain:read", "zero:*")), longest=300)
    assert allowed.permissions == {"brain:read", "zero:mask"}


@pytest.mark.parametrize(
    ("lifetime", "project", "longest", "given"), [(0, 0, 300, 300), (60, 0, 300, 60), (900, 120, 300, 120)]
)
def test_a_token_lives_no_longer_than_it_may(
    lifetime: float, project: float, longest: float, given: float
) -> None:
    shop = Project.own("shop") if not project else Project("shop", **{**_facts(), "max_lifetime": project})
    assert issue(shop, ROUTER, asked(lifetime=lifetime), longest=longest).lifetime == given


def _facts() -> dict[str, Any]:
    names = ("tenants", "permissions", "subjects", "audiences", "delegate")
    return {name: getattr(SHOP, name) for name in names}


@pytest.mark.parametrize(
    ("project", "caller", "wanted", "reason"),
    [
        (Project("shop", **_facts(), disabled=True), ROUTER, asked(), "PROJECT_DISABLED"),
        (SHOP, Principal("shop", "stranger"), asked(), "GRANT_EXCEEDED"),
        (SHOP, ROUTER, asked("worker"), "AUDIENCE_FORBIDDEN"),
        (SHOP, ROUTER, asked(tenants=("gamma",)), "GRANT_EXCEEDED"),
        (SHOP, ROUTER, asked(tenants=("*",)), "GRANT_EXCEEDED"),
        (SHOP, ROUTER, asked(permissions=("worker:start",)), "GRANT_EXCEEDED"),
    ],
)
def test_what_may_not_be_given_is_refused(
    project: Project, caller: Principal, wanted: Asked, reason: str
) -> None:
    with pytest.raises(MeshError) as caught:
        issue(project, caller, wanted, longest=300)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("of", "wanted", "reason"),
    [
        (subject(project="other"), asked(), "DELEGATE_FORBIDDEN"),
        (subject(depth=4), asked(), "DELEGATION_DEPTH"),
        (subject(), asked(tenants=("beta",)), "GRANT_EXCEEDED"),
        (subject(permissions=("router:ask",)), asked(), "GRANT_EXCEEDED"),
        (subject(permissions=("brain:read",)), asked(permissions=("brain:write",)), "GRANT_EXCEEDED"),
    ],
)
def test_an_exchange_for_more_is_refused(of: Verified, wanted: Asked, reason: str) -> None:
    with pytest.raises(MeshError) as caught:
        exchanged(of, wanted)
    assert caught.value.reason == reason


def test_an_exchanged_token_ends_with_the_one_it_was_exchanged_for() -> None:
    assert exchanged(subject(ends=20), asked()).lifetime == 20
    assert exchanged(subject(depth=3), asked(lifetime=7)).lifetime == 7


RIGHTS = st.frozensets(
    st.sampled_from(["*", "brain:*", "brain:read", "brain:write", "zero:mask"]), max_size=4
)
TENANTS = st.frozensets(st.sampled_from(["*", "acme", "beta", "gamma"]), max_size=3)


@given(granted=RIGHTS, held=RIGHTS, wanted=RIGHTS, may=TENANTS, has=TENANTS, names=TENANTS)
def test_an_exchange_only_ever_narrows(
    granted: Any, held: Any, wanted: Any, may: Any, has: Any, names: Any
) -> None:
    facts = {**_facts(), "permissions": granted, "tenants": may}
    try:
        allowed = exchanged(
            subject(permissions=held, tenants=has),
            asked(permissions=wanted, tenants=names),
            Project("shop", **facts),
        )
    except MeshError:
        return
    for right in allowed.permissions:
        assert all(covers(outer, right) for outer in (granted, held, wanted))
    for tenant in allowed.tenants:
        assert all("*" in outer or tenant in outer for outer in (may, has, names))
