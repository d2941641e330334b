"""What a caller says wrongly is told before anything is sent; what took too long is told by its name."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import BoolValue

from meshkit import DeadlineExceeded
from meshkit.testing import LocalMesh
from tests.serving.probe import Probe, ProbeClient, Text
from tests.transport.test_channel import forever


async def test_another_message_than_the_methods_own_is_refused_in_all_arities() -> None:
    async def others() -> AsyncIterator[Any]:
        yield BoolValue()

    async with LocalMesh(Probe) as mesh:
        probe: Any = mesh.client(ProbeClient)
        for wrong in (BoolValue(), {"value": "a"}, None):
            with pytest.raises(TypeError, match=r"Read takes .*StringValue, not "):
                await probe.read(wrong)
        with pytest.raises(TypeError, match=r"List takes .*StringValue, not .*BoolValue"):
            probe.list(BoolValue())
        with pytest.raises(TypeError, match=r"Collect takes .*StringValue, not .*BoolValue"):
            await probe.collect(others())


async def test_an_unknown_option_is_told_with_what_was_meant() -> None:
    async with LocalMesh(Probe) as mesh:
        probe: Any = mesh.client(ProbeClient)
        with pytest.raises(TypeError, match=r"no such call option: tenent; did you mean tenant\?"):
            await probe.read(Text(value="a"), tenent="acme")
        with pytest.raises(TypeError, match="no such call option: zzz; there are tenant, "):
            await probe.read(Text(value="a"), zzz=1)


async def test_a_call_that_took_too_long_says_which() -> None:
    local = LocalMesh(Probe)
    async with local as mesh:
        (instance,) = local.instances
        service: Any = local.service(instance)
        service.behave["Read"] = forever
        with pytest.raises(DeadlineExceeded, match="/Read had not answered when the time was up") as caught:
            await mesh.client(ProbeClient).read(Text(value="a"), timeout=0.05)
    assert caught.value.instance == instance
