"""A plain gRPC server to connect to, and calls to make over a link to it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from meshkit import Call, Exchange, Instance
from meshkit.balancing.pool import Endpoint
from meshkit.pipeline import Method
from meshkit.transport.health import Health
from meshkit.transport.link import GrpcLink

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
HOLD = object()


class Scripted(health_pb2_grpc.HealthServicer):
    """Each watch runs the next script: statuses to tell, a code to end with, `HOLD` to stay open; the last repeats."""

    def __init__(self, *scripts: tuple[Any, ...]) -> None:
        self.scripts = scripts
        self.opened = 0
        self.open = 0

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        script = self.scripts[min(self.opened, len(self.scripts) - 1)]
        self.opened += 1
        self.open += 1
        try:
            for step in script:
                if step is HOLD:
                    await asyncio.Event().wait()
                elif isinstance(step, grpc.StatusCode):
                    await context.abort(step, "as the script says")
                else:
                    yield health_pb2.HealthCheckResponse(status=step)
        finally:
            self.open -= 1


class Peer:
    """A plain gRPC server with one slow method and a health service, or none."""

    def __init__(
        self, health: Any, host: str = "127.0.0.1", port: int = 0, *, streams: int | None = None
    ) -> None:
        self.health = health
        self.streams = streams
        self.under_way = 0
        self.release = asyncio.Event()
        self.begun = asyncio.Event()
        self.host = host
        self.port = port

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    async def start(self) -> None:
        limit = [] if self.streams is None else [("grpc.max_concurrent_streams", self.streams)]
        self.server = grpc.aio.server(options=[("grpc.so_reuseport", 0), *limit])
        if isinstance(self.health, Health):
            self.health.add_to(self.server)
        elif self.health is not None:
            health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)

        async def slow(request: bytes, context: Any) -> bytes:
            self.begun.set()
            self.under_way += 1
            await self.release.wait()
            self.under_way -= 1
            return request

        handlers = {"Slow": grpc.unary_unary_rpc_method_handler(slow)}
        self.server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("probe.v1.ProbeService", handlers),)
        )
        self.port = self.server.add_insecure_port(f"{self.host}:{self.port}")
        await self.server.start()


def instance_at(address: str) -> Instance:
    return Instance(service="probe", instance_id="probe-1", address=address)


def call_over(link: GrpcLink) -> tuple[asyncio.Task[None], list[bytes]]:
    """Calls the slow method; the replies come into the list."""
    replies: list[bytes] = []

    async def send(reply: bytes) -> None:
        replies.append(reply)

    async def receive() -> Any:
        raise AssertionError

    made = Exchange(
        Method("/probe.v1.ProbeService/Slow"), Call(service="probe"), receive, send, request=b"asked"
    )
    made.endpoint = Endpoint(instance_at("127.0.0.1:1"), link)
    return asyncio.create_task(link.attempt(made)), replies
