"""Pages and their tokens."""

from __future__ import annotations

import base64
import json

import pytest

from meshkit import InvalidArgument
from reference_services._gen.contextunity.brain.v1 import brain_pb2 as pb
from reference_services.paging import PageTokens, page_of, page_size

REQUEST = pb.ListFactsRequest(subject="granite", page_size=3)


def following(token: str, subject: str = "granite", tenant: str = "acme") -> PageTokens:
    return PageTokens(tenant, pb.ListFactsRequest(subject=subject, page_token=token, page_size=7))


def test_a_token_means_the_place_that_it_was_written_for() -> None:
    for place in ((7, "Zürich"), (1.5, "x"), ("",)):
        token = PageTokens("acme", REQUEST).write(*place)
        assert following(token).read(*map(type, place)) == place
    assert PageTokens("acme", REQUEST).read(str) is None


@pytest.mark.parametrize("other", [{"tenant": "rival"}, {"subject": "marble"}])
def test_a_token_is_bound_to_tenant_and_filter(other: dict[str, str]) -> None:
    token = PageTokens("acme", REQUEST).write("a")
    with pytest.raises(InvalidArgument) as caught:
        following(token, **other).read(str)
    assert caught.value.reason == "PAGE_TOKEN_INVALID"


def forged(content: str) -> str:
    digest = json.loads(base64.urlsafe_b64decode(PageTokens("acme", REQUEST).write() + "=="))[0]
    return base64.urlsafe_b64encode(content.replace("DIGEST", digest).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    ("token", "kinds"),
    [
        ("!", (str,)),
        ("é", (str,)),
        ("W10", (str,)),
        ("A" * 3000, (str,)),
        (forged('["DIGEST"]'), (str,)),
        (forged('["DIGEST", 1]'), (str,)),
        (forged('["DIGEST", true]'), (int,)),
        (forged(f'["DIGEST", {2**63}]'), (int,)),
        (forged('["DIGEST", NaN]'), (float,)),
        (forged('["DIGEST", "\\ud800"]'), (str,)),
        (forged('["DIGEST", "\\u0000"]'), (str,)),
        (forged("[" * 700), (str,)),
        (forged('{"DIGEST": 1}'), (str,)),
        (forged("7"), (str,)),
    ],
)
def test_what_is_no_token_is_refused_before_a_database_sees_it(token: str, kinds: tuple[type, ...]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        following(token).read(*kinds)
    assert caught.value.reason == "PAGE_TOKEN_INVALID"


def test_pages_of_a_list_follow_on() -> None:
    items, seen, token = [("p", f"{n:02}") for n in range(7)], [], ""
    while True:
        shown, token = page_of(items, lambda item: item, following(token), 3)
        seen.append(len(shown))
        if not token:
            break
    assert seen == [3, 3, 1]


def test_a_page_size_is_within_its_bounds() -> None:
    assert [page_size(wanted, 50, 200) for wanted in (0, 1, 200)] == [50, 1, 200]
    for wanted in (-1, 201):
        with pytest.raises(InvalidArgument, match="not within"):
            page_size(wanted, 50, 200)
