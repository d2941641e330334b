"""Names that follow from a contract."""

import keyword

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.naming import method_names, service_name, snake_case

NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,20}", fullmatch=True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Greet", "greet"),
        ("GreetMany", "greet_many"),
        ("GetHTTPStatus", "get_http_status"),
        ("ScanPII", "scan_pii"),
        ("ListIDs", "list_ids"),
        ("ListIDsByHost", "list_ids_by_host"),
        ("GreetV2", "greet_v2"),
        ("already_snake", "already_snake"),
        ("HTTPAlive", "http_alive"),
    ],
)
def test_rpc_names_become_snake_case(name: str, expected: str) -> None:
    assert snake_case(name) == expected


@pytest.mark.parametrize(
    ("contract", "expected"),
    [
        ("GreeterService", "greeter"),
        ("contextunity.brain.v1.BrainService", "brain"),
        ("UserProfileService", "user-profile"),
        ("Greeter", "greeter"),
        ("Service", "service"),
    ],
)
def test_services_are_called_after_their_contract(contract: str, expected: str) -> None:
    assert service_name(contract) == expected


def test_rpcs_that_would_share_a_name_keep_their_own() -> None:
    names = method_names(["GetURL", "GetUrl", "Greet", "Class", "Config"], reserved={"config"})
    assert names == {
        "GetURL": "GetURL",
        "GetUrl": "GetUrl",
        "Greet": "greet",
        "Class": "class_",
        "Config": "config_",
    }


@given(NAMES)
def test_snake_case_of_snake_case_is_itself(name: str) -> None:
    assert snake_case(snake_case(name)) == snake_case(name)


@given(st.lists(NAMES, unique=True, max_size=8), st.sets(NAMES, max_size=3))
def test_method_names_are_distinct_identifiers(rpcs: list[str], reserved: set[str]) -> None:
    names = method_names(rpcs, reserved)
    assert len(set(names.values())) == len(rpcs)
    assert all(name.isidentifier() and not keyword.iskeyword(name) for name in names.values())
    assert not reserved & set(names.values())
