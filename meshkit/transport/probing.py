"""Asking an address how it is: the calling side of `grpc.health.v1`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import grpc
from grpc.aio import AioRpcError
from grpc_health.v1 import health_pb2, health_pb2_grpc

from meshkit._gen.meshkit.v1 import health_pb2 as pb
from meshkit.transport.options import channel_options
from meshkit.transport.tls import Secured, open_channel, trouble_of

SERVING = "SERVING"
UNREACHABLE = "UNREACHABLE"
"""Status of an address where nobody answers, or not in the health protocol."""

_MAX_ANSWER = 64 * 1024


@dataclass(frozen=True, slots=True)
class Probe:
    """How an address answered.

    Attributes:
        status: `SERVING`, `NOT_SERVING`, another status of the health protocol, or `UNREACHABLE`.
        seconds: How long it took.
        problem: Why there is no answer, where there is none.
        state: What an instance of the mesh says of its state; empty where it is none.
        lacking: What it lacks to be ready.
    """

    status: str
    seconds: float
    problem: str = ""
    state: str = ""
    lacking: tuple[str, ...] = ()

    @property
    def serves(self) -> bool:
        """Whether all is well."""
        return self.status == SERVING


async def probe(address: str, *, timeout: float, contract: str = "", secured: Secured | None = None) -> Probe:
    """Asks once. Whatever happens is an answer, not an exception.

    Args:
        address: `host:port`.
        timeout: Seconds to wait for the answer, connecting included.
        contract: Full name of a gRPC service to ask about; by default the server as a whole.
        secured: With TLS, so; in plain text where it is None.
    """
    begun = time.monotonic()
    request = health_pb2.HealthCheckRequest(service=contract)
    async with open_channel(address, channel_options(_MAX_ANSWER), secured) as channel:
        try:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(request, timeout=timeout)
        except AioRpcError as error:
            return Probe(UNREACHABLE, time.monotonic() - begun, _problem(error, timeout, secured))
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    more = pb.HealthAnswer.FromString(answer.SerializeToString())
    return Probe(name, time.monotonic() - begun, state=more.state, lacking=tuple(more.lacking))


def _problem(error: AioRpcError, timeout: float, secured: Secured | None) -> str:
    match error.code():
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"no answer within {timeout:g} s"
        case grpc.StatusCode.UNIMPLEMENTED:
            return "serves gRPC, but not grpc.health.v1"
    return trouble_of(error.details() or error.code().name, secured).text
