"""What a service says of itself beside its contract, and how wrong keywords are told at import."""

from typing import Any

import pytest
from greeter.v1 import greeter_pb2 as pb

from meshkit import Call, CUService, rpc
from tests.service.greeters import CONTRACT, Good, fault


@pytest.mark.parametrize(
    "keyword",
    [
        {"name": "Greeter"},
        {"name": "a" * 41},
        {"port": -1},
        {"port": 65536},
        {"port": "50060"},
        {"middleware": print},
        {"middleware": (3,)},
    ],
)
def test_wrong_class_keywords_are_told(keyword: dict[str, Any]) -> None:
    def make() -> None:
        class Greeter(Good, CUService, contract=CONTRACT, **keyword):
            """Has a wrong keyword."""

    assert "Greeter" in fault(make)


@pytest.mark.parametrize("contract", [pb, "greeter.v1.GreeterService", pb.DESCRIPTOR])
def test_what_is_no_contract_is_told_with_what_one_is(contract: Any) -> None:
    def make() -> None:
        class Greeter(Good, CUService, contract=contract):
            """Has none."""

    text = fault(make)
    assert "is no descriptor of a gRPC service" in text
    assert 'services_by_name["GreeterService"]' in text


def test_class_keywords_of_mix_ins_are_theirs_on_either_side() -> None:
    seen: list[str] = []

    class Coloured:
        def __init_subclass__(cls, *, colour: str = "", **others: Any) -> None:
            super().__init_subclass__(**others)
            seen.append(colour)

    class Before(Coloured, Good, CUService, contract=CONTRACT, colour="red"):
        """Has it taken before the service sees it."""

    class After(Good, CUService, Coloured, contract=CONTRACT, colour="blue"):  # type: ignore
        """Has it passed on."""

    assert seen == ["red", "blue"]
    assert Before.definition.name == After.definition.name == "greeter"


@pytest.mark.parametrize(
    ("peers", "what", "mend"),
    [
        ("router", "allow_peers='router'", 'Give a set of names: {"router"}.'),
        (set(), "allow_peers names nobody", "Name services, or leave it out."),
        ({"Router"}, "'Router' is no service", "A service's name is [a-z]"),
        ([7], "7 is no service", "A service's name is [a-z]"),
        ({"router": True}, "allow_peers={'router': True}", "Give a set of names"),
    ],
)
def test_peers_that_make_no_sense_are_refused(peers: Any, what: str, mend: str) -> None:
    def on_the_class() -> None:
        class Greeter(Good, CUService, contract=CONTRACT, allow_peers=peers):
            """Names its peers wrongly."""

    def on_a_method() -> None:
        class Greeter(Good, CUService, contract=CONTRACT):
            """Names the peers of a method wrongly."""

            @rpc(permission="greeter:greet", allow_peers=peers)
            async def greet(self, request: pb.GreetRequest, call: Call) -> pb.GreetResponse:
                return pb.GreetResponse()

    for make, place in ((on_the_class, "Greeter ("), (on_a_method, "Greeter.greet (")):
        text = fault(make)
        assert what in text
        assert mend in text
        assert place in text


def test_a_methods_peers_replace_those_of_its_class_and_a_subclass_keeps_them() -> None:
    class Greeter(Good, CUService, contract=CONTRACT, allow_peers=["router"]):
        """Lets the router in, at one method the brain."""

        @rpc(permission="greeter:greet", allow_peers=("brain", "zero"))
        async def greet(self, request: pb.GreetRequest, call: Call) -> pb.GreetResponse:
            return pb.GreetResponse()

    class Later(Greeter, name="later"):
        """The same."""

    for kind in (Greeter, Later):
        peers = {each.attribute: each.allow_peers for each in kind.definition.rpcs}
        assert peers.pop("greet") == {"brain", "zero"}
        assert set(peers.values()) == {frozenset({"router"})}


@pytest.mark.parametrize(
    ("names", "what", "mend"),
    [
        ("brain", "depends_on='brain'", 'Give a set of names: {"brain"}.'),
        (("Brain",), "'Brain' is no service", "A service's name is [a-z]"),
        (("brain", "greeter"), "greeter depends on itself", "Leave"),
    ],
)
def test_dependencies_that_make_no_sense_are_refused(names: Any, what: str, mend: str) -> None:
    def make() -> None:
        class Greeter(Good, CUService, contract=CONTRACT, depends_on=names):
            """Names what it depends on wrongly."""

    text = fault(make)
    assert what in text
    assert mend.lower() in text.lower()


def test_dependencies_are_each_told_once_and_a_subclass_keeps_them() -> None:
    class Greeter(Good, CUService, contract=CONTRACT, depends_on=["brain", "zero", "brain"]):
        """Depends on two."""

    class Later(Greeter, name="later"):
        """The same."""

    class Alone(Greeter, name="alone", depends_on=()):
        """On none any more."""

    assert Greeter.definition.depends_on == Later.definition.depends_on == ("brain", "zero")
    assert Alone.definition.depends_on == ()
