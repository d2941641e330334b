"""A service that does not fit its contract fails at import, with where, what, and how to mend it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from greeter.v1 import greeter_pb2 as pb

from meshkit import END, PUBLIC, Call, CUService, Exchange, every, resource, rpc
from meshkit.declaration import Public
from tests.service.greeters import CONTRACT, Good, fault

if TYPE_CHECKING:
    from greeter.v1.greeter_pb2 import GreetRequest as HiddenRequest

HERE = __file__


def line_of(text: str) -> int:
    """Number of the one line of this file that ends with a mark."""
    lines = Path(HERE).read_text().splitlines()
    (number,) = [number for number, line in enumerate(lines, 1) if line.endswith(f"# {text}")]
    return number


def test_a_service_that_fits_is_bound_by_name_port_and_arity() -> None:
    class Greeter(Good, CUService, contract=CONTRACT, port=50060):
        """Fits."""

    definition = Greeter.definition
    assert (definition.name, definition.port) == ("greeter", 50060)
    assert [(each.method.name, each.attribute) for each in definition.rpcs] == [
        ("Greet", "greet"),
        ("GreetMany", "greet_many"),
        ("GreetAll", "greet_all"),
        ("Chat", "chat"),
    ]
    assert [(e.method.streams_requests, e.method.streams_replies) for e in definition.rpcs] == [
        (False, False),
        (False, True),
        (True, False),
        (True, True),
    ]
    assert [each.method.idempotent for each in definition.rpcs] == [True, True, False, False]


async def test_a_method_stays_a_function_that_a_unit_test_calls() -> None:
    class Greeter(Good, CUService, contract=CONTRACT):
        """Fits."""

    assert (await Greeter().greet(pb.GreetRequest(name="Ada"), Call.for_test(tenant="acme"))).text == "Ada"


async def test_what_is_there_while_a_service_runs_is_told_of_before() -> None:
    class Greeter(Good, CUService, contract=CONTRACT):
        phrases = resource(asynccontextmanager(Good.greet_many))  # type: ignore[arg-type]

    service: Any = Greeter()
    for name in ("config", "mesh", "instance", "live"):
        with pytest.raises(
            AttributeError, match=rf"Greeter\.{name} is there while the service runs; a unit test"
        ):
            getattr(service, name)
    with pytest.raises(AttributeError, match=r"resource Greeter\.phrases is not open"):
        _ = service.phrases
    with pytest.raises(AttributeError, match="'Greeter' object has no attribute 'nothing'"):
        _ = service.nothing
    assert not hasattr(service, "mesh")


def test_a_subclass_may_override_a_method_and_is_bound_anew() -> None:
    class Greeter(Good, CUService, contract=CONTRACT):
        """Fits."""

    class Louder(Greeter, contract=CONTRACT, name="louder"):
        @rpc(permission="louder:greet", timeout=1.0)
        async def greet(self, request: pb.GreetRequest, call: Call) -> pb.GreetResponse:
            return pb.GreetResponse(text=request.name.upper())

    assert Louder.definition.rpcs[0].permission == "louder:greet"
    assert Greeter.definition.rpcs[0].permission == "greeter:greet"


def test_an_unknown_name_is_told_with_what_was_meant() -> None:
    def make() -> None:
        class Greeter(Good, CUService, contract=CONTRACT):
            @rpc(permission="greeter:greet")  # unknown
            async def great(self, request: pb.GreetRequest, call: Call) -> pb.GreetResponse: ...

    text = fault(make)
    assert "Greeter.great" in text
    assert f"{HERE}:{line_of('unknown')}" in text
    assert "no such RPC" in text
    assert "did you mean greet? Name the method" in text


def test_an_unknown_name_in_the_decorator_is_told() -> None:
    def make() -> None:
        class Greeter(Good, CUService, contract=CONTRACT):
            @rpc(permission="greeter:greet", name="GreetMeny")
            async def other(self, request: pb.GreetRequest, call: Call) -> pb.GreetResponse: ...

    assert "did you mean GreetMany?" in fault(make)


def test_missing_rpcs_are_all_named_with_the_methods_to_write() -> None:
    def make() -> None:
        class Greeter(CUService, contract=CONTRACT):  # missing
            @rpc(permission="greeter:greet")
            async def greet(self, request: pb.GreetRequest, call: Call) -> pb.GreetResponse: ...

    text = fault(make)
    assert "Greeter" in text
    assert f"{HERE}:{line_of('missing')}" in text
    for name in ("GreetMany (async def greet_many)", "GreetAll", "Chat"):
        assert name in text


def test_a_method_without_rpc_is_told_to_lack_it() -> None:
    def make() -> None:
        class Greeter(Good, CUService, contract=CONTRACT):
            async def greet(self, request: pb.GreetRequest, call: Call) -> pb.GreetResponse: ...

    assert "not implemented: Greet (greet lacks @rpc). Add" in fault(make)


def test_an_rpc_implemented_twice_is_told() -> None:
    def make() -> None:
        class Greeter(Good, CUService, contract=CONTRACT):
            @rpc(permission="greeter:greet", name="Greet")
            async def hello(self, request: pb.GreetRequest, call: Call) -> pb.GreetResponse: ...

    assert "already" in fault(make)


def test_an_rpc_without_permission_is_told_of_public() -> None:
    bare: Any = rpc

    def make() -> None:
        class Greeter(Good, CUService, contract=CONTRACT):
            @bare  # bare
            async def greet(self, request: pb.GreetRequest, call: Call) -> pb.GreetResponse: ...

    text = fault(make)
    assert "Greeter.greet" in text
    assert f"{HERE}:{line_of('bare')}" in text
    assert "PUBLIC" in text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"permission": "greet"}, "service:verb"),
        ({"permission": "Greeter:greet"}, "service:verb"),
        ({"permission": "*"}, "service:verb"),
        ({"permission": ""}, "service:verb"),
        ({"permission": "greeter:greet", "tenant": "maybe"}, "required, optional or none"),
        ({"permission": "greeter:greet", "timeout": 0}, "above 0"),
        ({"permission": "greeter:greet", "timeout": -1.0}, "above 0"),
        ({"permission": "greeter:greet", "timeout": "2s"}, "timeout='2s'. Give seconds above 0"),
        ({"permission": "greeter:greet", "idempotent": True}, "option idempotency_level = IDEMPOTENT"),
    ],
)
def test_wrong_options_of_rpc_are_told(options: dict[str, Any], says: str) -> None:
    def make() -> None:
        class Greeter(Good, CUService, contract=CONTRACT):
            @rpc(**options)
            async def greet(self, request: pb.GreetRequest, call: Call) -> pb.GreetResponse: ...

    text = fault(make)
    assert says in text
    assert "Greeter.greet" in text


def test_wrong_messages_are_told_with_the_contracts() -> None:
    def wrong_request() -> None:
        class Greeter(Good, CUService, contract=CONTRACT):
            @rpc(permission="greeter:greet")
            async def greet(self, request: pb.ChatRequest, call: Call) -> pb.GreetResponse: ...

    def wrong_reply() -> None:
        class Greeter(Good, CUService, contract=CONTRACT):
            @rpc(permission="greeter:greet")
            async def greet(self, request: pb.GreetRequest, call: Call) -> pb.ChatResponse: ...

    def not_streamed() -> None:
        class Greeter(Good, CUService, contract=CONTRACT):
            @rpc(permission="greeter:greet")
            async def greet_all(self, requests: pb.GreetAllRequest, call: Call) -> pb.GreetAllResponse: ...

    def streamed() -> None:
        class Greeter(Good, CUService, contract=CONTRACT):
            @rpc(permission="greeter:greet")
            async def greet(
                self, request: AsyncIterator[pb.GreetRequest], call: Call
            ) -> pb.GreetResponse: ...

    def bare_iterator() -> None:
        class Greeter(Good, CUService, contract=CONTRACT):
            @rpc(permission="greeter:greet")
            async def greet_all(self, requests: AsyncIterator, call: Call) -> pb.GreetAllResponse: ...  # type: ignore[type-arg]

    def no_call() -> None:
        class Greeter(Good, CUService, contract=CONTRACT):
            @rpc(permission="greeter:greet")
            async def greet(self, request: pb.GreetRequest, call: str) -> pb.GreetResponse: ...

    for make, says in (
        (wrong_request, "greeter.v1.GreetRequest"),
        (wrong_reply, "greeter.v1.GreetResponse"),
        (not_streamed, "AsyncIterator[GreetAllRequest]"),
        (streamed, "Annotate it as GreetRequest."),
        (bare_iterator, "AsyncIterator[GreetAllRequest]"),
        (no_call, "meshkit.Call"),
    ):
        text = fault(make)
        assert says in text
        assert "Greeter.greet" in text
        assert HERE in text


def test_annotations_that_cannot_be_evaluated_are_told_with_the_mend() -> None:
    def make() -> None:
        class Greeter(Good, CUService, contract=CONTRACT):
            @rpc(permission="greeter:greet")
            async def greet(self, request: "HiddenRequest", call: Call) -> pb.GreetResponse: ...

    text = fault(make)
    assert "HiddenRequest" in text
    assert "TYPE_CHECKING" in text


def test_the_shape_of_a_method_is_its_arity() -> None:
    def sync() -> None:
        class Greeter(Good, CUService, contract=CONTRACT):
            @rpc(permission="greeter:greet")
            def greet(self, request: pb.GreetRequest, call: Call) -> pb.GreetResponse: ...

    def yields() -> None:
        class Greeter(Good, CUService, contract=CONTRACT):
            @rpc(permission="greeter:greet")
            async def greet(self, request: pb.GreetRequest, call: Call) -> AsyncIterator[pb.GreetResponse]:
                yield pb.GreetResponse()

    def returns() -> None:
        class Greeter(Good, CUService, contract=CONTRACT):
            @rpc(permission="greeter:greet")
            async def greet_many(self, request: pb.GreetManyRequest, call: Call) -> pb.GreetManyResponse: ...

    def parameters() -> None:
        class Greeter(Good, CUService, contract=CONTRACT):
            @rpc(permission="greeter:greet")
            async def greet(self, request: pb.GreetRequest) -> pb.GreetResponse: ...

    def swapped() -> None:
        class Greeter(Good, CUService, contract=CONTRACT):
            @rpc(permission="greeter:greet")
            async def greet(self, call: Call, request: pb.GreetRequest) -> pb.GreetResponse: ...

    for make, says in (
        (sync, "return"),
        (swapped, "(self, request, call: Call)"),
        (yields, "return"),
        (returns, "yield"),
        (parameters, "(self, request, call: Call)"),
    ):
        text = fault(make)
        assert says in text
        assert "Greeter.greet" in text


def test_a_policy_has_one_shape() -> None:
    def sync() -> None:
        class Greeter(Good, CUService, contract=CONTRACT):
            def authorize(self, call: Call) -> None: ...  # type: ignore[override]

    def wide() -> None:
        class Greeter(Good, CUService, contract=CONTRACT):
            async def authorize(self, request: Any, call: Call) -> None: ...  # type: ignore[override]

    for make in (sync, wide):
        assert "Write async def authorize(self, call: Call) -> None" in fault(make)


def test_jobs_are_async_and_make_sense() -> None:
    def sync() -> None:
        class Greeter(Good, CUService, contract=CONTRACT):
            @every(seconds=30)
            def refresh(self) -> None: ...

    def wide() -> None:
        class Greeter(Good, CUService, contract=CONTRACT):
            @every(seconds=30)
            async def refresh(self, call: Call) -> None: ...

    assert "Greeter.refresh" in fault(sync)
    assert "Write async def refresh(self) -> None" in fault(wide)
    for wrong in ({"seconds": 0}, {"seconds": -1}, {"seconds": 1, "jitter": 2}, {"seconds": float("nan")}):
        with pytest.raises(ValueError, match="@every"):
            every(**wrong)  # type: ignore[arg-type]


def test_a_misspelt_class_keyword_is_told_with_what_was_meant() -> None:
    def make() -> None:
        class Greeter(Good, CUService, contract=CONTRACT, prt=5):  # type: ignore  # misspelt
            """Has a keyword that there is not."""

    text = fault(make)
    assert "Greeter" in text
    assert f"{HERE}:{line_of('misspelt')}" in text
    known = "contract, name, port, middleware, allow_peers, depends_on"
    assert f"takes no prt (did you mean port?). It takes {known}." in text


def test_a_misspelt_argument_of_the_decorator_is_told_with_what_was_meant() -> None:
    def make() -> None:
        class Greeter(Good, CUService, contract=CONTRACT):
            @rpc(permission="greeter:greet", timeot=2)  # type: ignore  # late
            async def greet(self, request: pb.GreetRequest, call: Call) -> pb.GreetResponse: ...

    text = fault(make)
    assert "Greeter.greet" in text
    assert f"{HERE}:{line_of('late')}" in text
    assert (
        "@rpc takes no timeot (did you mean timeout?). It takes permission, tenant, timeout, name, " in text
    )


def test_a_public_method_is_one_that_says_so() -> None:
    class Greeter(Good, CUService, contract=CONTRACT):
        @rpc(permission=PUBLIC, tenant="none")
        async def greet(self, request: pb.GreetRequest, call: Call) -> pb.GreetResponse: ...

    assert Greeter.definition.rpcs[0].permission is PUBLIC
    assert isinstance(PUBLIC, Public)


def test_the_config_annotation_names_a_settings_class() -> None:
    class Greeter(Good, CUService, contract=CONTRACT):
        config: "Nowhere"  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(TypeError, match="TYPE_CHECKING"):
        Greeter.config_class()

    class Other(Good, CUService, contract=CONTRACT):
        config: int

    with pytest.raises(TypeError, match="SharedConfig"):
        Other.config_class()


def test_a_resource_that_is_not_open_says_what_to_do_and_a_test_may_set_it() -> None:
    def opener(service: Any) -> Any:
        raise AssertionError

    class Greeter(Good, CUService, contract=CONTRACT):
        store = resource(opener)

    greeter: Any = Greeter()
    with pytest.raises(AttributeError, match="not open"):
        _ = greeter.store
    greeter.store = "fake"
    assert greeter.store == "fake"
    assert list(Greeter.definition.resources) == ["store"]


def test_the_public_face_has_what_a_middleware_needs() -> None:
    assert END is not None
    assert Exchange is not None
