"""A service between the client and the greeters, whose replicas live through the soak and tell how they are."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from functools import cached_property

from greeter.v1 import greeter_pb2 as pb
from greeter.v1.greeter_client import GreeterClient

from meshkit import Call, CUService, SharedConfig, every, rpc
from meshkit.replica import Replica
from tests.soak.looks import of_a_replica, of_process, of_python


class Gate(CUService, contract=pb.DESCRIPTOR.services_by_name["GreeterService"], name="gate"):
    """Passes calls on to the greeters, on behalf of whoever makes them."""

    config: SharedConfig

    @cached_property
    def greeters(self) -> GreeterClient:
        return self.mesh.client(GreeterClient, hedge=["greet"])

    @rpc(permission="gate:greet")
    async def greet(self, request: pb.GreetRequest, call: Call) -> pb.GreetResponse:
        return await self.greeters.greet(request)

    @rpc(permission="gate:greet")
    async def greet_many(
        self, request: pb.GreetManyRequest, call: Call
    ) -> AsyncIterator[pb.GreetManyResponse]:
        """Makes a client for each call, as some do."""
        async with self.mesh.client(GreeterClient).greet_many(request) as replies:
            async for reply in replies:
                yield reply

    @rpc(permission="gate:look", tenant="none")
    async def greet_all(self, requests: AsyncIterator[pb.GreetAllRequest], call: Call) -> pb.GreetAllResponse:
        """What there is in this process, as JSON."""
        async for _ in requests:
            pass
        replica = self.live._followers[0].apply.__self__  # type: ignore[attr-defined]  # it takes changed settings
        assert isinstance(replica, Replica)
        figures = {**of_python(of_a_replica(replica)), **of_process(os.getpid())}
        return pb.GreetAllResponse(text=json.dumps({"name": self.config.shard_key, "figures": figures}))

    @rpc(permission="gate:greet")
    async def chat(
        self, requests: AsyncIterator[pb.ChatRequest], call: Call
    ) -> AsyncIterator[pb.ChatResponse]:
        async for request in requests:
            yield pb.ChatResponse(text=request.name)

    @every(seconds=0.5)
    async def keep_in_touch(self) -> None:
        await self.greeters.greet(pb.GreetRequest(name="job"), tenant="job", timeout=20)
