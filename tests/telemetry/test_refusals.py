"""Refusals are counted by reason, and told in the log often enough to be seen and seldom enough to be read."""

import grpc
import pytest
import structlog

from meshkit import Call, PermissionDenied, ResourceExhausted, Unauthenticated
from meshkit.call import Peer
from meshkit.telemetry.refusals import MAX_REASONS, OTHER, PAUSE_S, Refusals
from meshkit.testing import LocalMesh
from tests.serving.probe import Probe, ProbeStub, Text


def a_call() -> Call:
    return Call(service="brain", peer=Peer("ipv4:127.0.0.1:5"))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def expired() -> Unauthenticated:
    return Unauthenticated("the token expired 5 s ago", reason="TOKEN_EXPIRED")


def test_a_flood_is_one_line_in_a_while_that_says_how_many_there_were() -> None:
    clock = Clock()
    refusals = Refusals(clock=clock)
    with structlog.testing.capture_logs() as lines:
        for _ in range(1000):
            refusals.note(expired(), a_call())
        clock.now += PAUSE_S
        refusals.note(expired(), a_call())
    assert refusals.counts == {"TOKEN_EXPIRED": 1001}
    assert [(line["reason"], line["others_since"], line["peer"]) for line in lines] == [
        ("TOKEN_EXPIRED", 0, "ipv4:127.0.0.1:5"),
        ("TOKEN_EXPIRED", 999, "ipv4:127.0.0.1:5"),
    ]
    assert lines[0]["why"] == "the token expired 5 s ago"


def test_each_reason_is_told() -> None:
    refusals = Refusals(clock=Clock())
    with structlog.testing.capture_logs() as lines:
        refusals.note(expired(), a_call())
        refusals.note(PermissionDenied("no", reason="PERMISSION_MISSING"), a_call())
    assert [line["reason"] for line in lines] == ["TOKEN_EXPIRED", "PERMISSION_MISSING"]


def test_reasons_that_a_policy_makes_up_are_bounded() -> None:
    refusals = Refusals(clock=Clock())
    for number in range(MAX_REASONS + 50):
        refusals.note(PermissionDenied("no", reason=f"MADE_UP_{number}"), a_call())
    assert len(refusals.counts) == MAX_REASONS + 1
    assert refusals.counts[OTHER] == 50


def test_those_for_want_of_room_are_counted_as_shed() -> None:
    refusals = Refusals(clock=Clock())
    refusals.note(expired(), a_call())
    refusals.note(ResourceExhausted("busy", reason="OVERLOADED"), a_call())
    assert refusals.shed == 1


async def test_malformed_metadata_are_a_refusal_as_others_are() -> None:
    local = LocalMesh(Probe)
    async with local:
        (replica,) = local._running.values()
        assert replica.instance is not None
        async with grpc.aio.insecure_channel(replica.instance.address) as channel:
            call = ProbeStub(channel).Read(Text(), metadata=(("x-cu-tenant", "a"), ("x-cu-tenant", "b")))
            assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.aio.AioRpcError, match="x-cu-tenant comes twice"):
            await call
    assert replica.observer.refusals.counts == {"METADATA_DUPLICATE": 1}
    tally = replica.observer.calls.by_method["probe.v1.ProbeService/Read"]
    assert {code: found.count for code, found in tally.by_code.items()} == {"INVALID_ARGUMENT": 1}
