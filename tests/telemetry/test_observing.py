"""Each call that is served is counted once, under the code that its caller sees, and has its line in the log."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import structlog

from meshkit import Call, Internal, NotFound, Unauthenticated
from meshkit.call import Deadline, Principal
from meshkit.pipeline import Exchange, Method
from meshkit.telemetry.access import AccessLog
from meshkit.telemetry.calls import BOUNDS, MAX_METHODS, OTHER, Calls, Histogram
from meshkit.telemetry.observing import Observer, calling

PATH = "/a.B/C"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def nothing(*_: Any) -> Any: ...


def an_exchange(**facts: Any) -> Exchange:
    call = Call(service="brain", instance_id="brain-1", method=PATH, tenant="acme", **facts)
    return Exchange(Method(PATH), call, nothing, nothing)


async def serve(observer: Observer, body: Callable[[Exchange], Awaitable[None]], exchange: Exchange) -> None:
    await observer.layer(PATH)(body)(exchange)


def raising(error: BaseException, *, begun: bool = True) -> Callable[[Exchange], Awaitable[None]]:
    async def fail(exchange: Exchange) -> None:
        exchange.begun = begun
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "deadline", "code"),
    [
        (NotFound("no"), Deadline(), "NOT_FOUND"),
        (Internal("no"), Deadline(), "INTERNAL"),
        (asyncio.CancelledError(), Deadline(), "CANCELLED"),
        (asyncio.CancelledError(), Deadline.after(-1), "DEADLINE_EXCEEDED"),
        (KeyboardInterrupt(), Deadline(), "UNKNOWN"),
    ],
)
async def test_a_failure_is_counted_under_its_code(
    error: BaseException, deadline: Deadline, code: str
) -> None:
    observer = Observer()
    with pytest.raises(type(error)):
        await serve(observer, raising(error), an_exchange(deadline=deadline))
    assert {each: found.count for each, found in observer.calls.of(PATH).by_code.items()} == {code: 1}


@pytest.mark.parametrize(
    ("took", "left", "code"),
    [
        (1.0, 0.05, "DEADLINE_EXCEEDED"),
        (0.1, 0.05, "CANCELLED"),
        (3600.0, 0.05, "DEADLINE_EXCEEDED"),
        (3600.0, 1.0, "CANCELLED"),
    ],
)
async def test_what_is_cancelled_just_before_its_deadline_has_exceeded_it(
    took: float, left: float, code: str
) -> None:
    """The caller's clock began while the call was on its way; it is as if it were the deadline."""
    clock = Clock()
    observer = Observer(calls=Calls(clock))

    async def ended(_: Exchange) -> None:
        clock.now += took
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await serve(observer, ended, an_exchange(deadline=Deadline(clock.now + took + left, clock)))
    assert observer.calls.of(PATH).by_code.keys() == {code}


async def test_a_success_is_counted_with_its_duration() -> None:
    clock = Clock()
    observer = Observer(calls=Calls(clock))

    async def slow(_: Exchange) -> None:
        clock.now += 0.2

    await serve(observer, slow, an_exchange())
    found = observer.calls.of(PATH).by_code["OK"]
    assert found.total == pytest.approx(0.2)
    assert found.buckets[BOUNDS.index(0.25)] == 1
    assert observer.calls.of(PATH).latencies.quantile(0.5, least=1) == pytest.approx(0.2)


@pytest.mark.parametrize(("begun", "count"), [(False, 1), (True, 0)])
async def test_what_the_services_own_code_raises_is_no_refusal(begun: bool, count: int) -> None:
    observer = Observer()
    with pytest.raises(Unauthenticated):
        await serve(observer, raising(Unauthenticated("no"), begun=begun), an_exchange())
    assert observer.refusals.counts.total() == count


async def test_calls_that_are_made_are_counted_by_method_and_code() -> None:
    calls = Calls()
    handler = calling("brain", calls, None)(raising(NotFound("no")))
    for _ in range(2):
        with pytest.raises(NotFound):
            await handler(an_exchange())
    assert calls.by_method["a.B/C"].by_code["NOT_FOUND"].count == 2


def test_a_flood_of_methods_is_one_method() -> None:
    calls = Calls()
    for number in range(MAX_METHODS + 10):
        calls.of(f"/a.B/M{number}").record("OK", 0.001, 0.0)
    assert len(calls.by_method) == MAX_METHODS + 1
    assert calls.of(OTHER).by_code["OK"].count == 10


def test_a_duration_falls_into_the_bucket_whose_bound_it_does_not_exceed() -> None:
    histogram = Histogram()
    for seconds in (0.0, 0.0005, 0.00051, 10.0, 11.0):
        histogram.record(seconds)
    assert histogram.buckets[0] == 2
    assert (histogram.buckets[1], histogram.buckets[-2], histogram.buckets[-1]) == (1, 1, 1)
    assert histogram.count == 5


async def test_a_line_has_all_that_one_looks_for() -> None:
    exchange = an_exchange(principal=Principal("shop", "checkout"))
    with structlog.testing.capture_logs() as lines:
        await serve(Observer(access=AccessLog(10)), nothing, exchange)
    (line,) = lines
    assert line.pop("seconds") >= 0
    assert line == {
        "event": "served",
        "log_level": "info",
        "service": "brain",
        "instance": "brain-1",
        "method": PATH,
        "tenant": "acme",
        "trace_id": exchange.call.trace.trace_id,
        "code": "OK",
        "caller": "shop/checkout",
    }


async def test_a_failure_has_its_reason_and_one_of_the_services_own_is_a_warning() -> None:
    observer = Observer(access=AccessLog(10))
    with structlog.testing.capture_logs() as lines:
        for error in (NotFound("no", reason="FACT_UNKNOWN"), Internal("no")):
            with pytest.raises(type(error)):
                await serve(observer, raising(error), an_exchange())
    assert [(line["code"], line["reason"], line["log_level"]) for line in lines] == [
        ("NOT_FOUND", "FACT_UNKNOWN", "info"),
        ("INTERNAL", "INTERNAL", "warning"),
    ]


async def test_lines_come_at_a_rate_and_say_how_many_calls_have_none() -> None:
    clock = Clock()
    observer = Observer(access=AccessLog(2, clock=clock))
    with structlog.testing.capture_logs() as lines:
        for _ in range(5):
            await serve(observer, nothing, an_exchange())
        with pytest.raises(Internal):
            await serve(observer, raising(Internal("no")), an_exchange())
        clock.now += 0.5
        await serve(observer, nothing, an_exchange())
    assert [(line["code"], line.get("left_out")) for line in lines] == [
        ("OK", None),
        ("OK", None),
        ("INTERNAL", None),
        ("OK", 3),
    ]
