"""Reflection beyond local: through the checks of any call, so that `meshkit call` works there."""

from collections.abc import AsyncIterator

import grpc
import pytest

from meshkit import Mesh, MeshError, inspection
from meshkit import reflection as served
from meshkit.cli.call import _contracts
from meshkit.cli.output import Failure
from meshkit.testing import LocalMesh
from meshkit.transport.reflecting import reflect
from tests.serving.probe import Probe


@pytest.fixture
async def mesh(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mesh]:
    """A mesh whose reflection is that of production."""
    monkeypatch.setattr(served, "OpenReflection", served.Reflection)
    async with LocalMesh(Probe) as running:
        yield running


async def refusal(channel: grpc.aio.Channel) -> tuple[str, str]:
    with pytest.raises(MeshError) as caught:
        await reflect(channel, "probe", timeout=10)
    return caught.value.code, caught.value.reason


async def test_who_may_inspect_learns_the_contract(mesh: Mesh) -> None:
    for permission in ("mesh:inspect", "mesh:*", "*"):
        found = await reflect(mesh.channel("probe", permissions=(permission,)), "probe", timeout=10)
        assert list(found.services) == ["meshkit.v1.MeshService", "probe.v1.ProbeService"]


async def test_a_stranger_does_not(mesh: Mesh) -> None:
    (instance,) = await mesh.instances("probe")
    async with grpc.aio.insecure_channel(instance.address) as plain:
        assert await refusal(plain) == ("UNAUTHENTICATED", "TOKEN_MISSING")


async def test_nor_who_has_other_permissions(mesh: Mesh) -> None:
    signed = mesh.channel("probe", permissions=("probe:read",))
    assert await refusal(signed) == ("PERMISSION_DENIED", "PERMISSION_MISSING")


async def test_meshkit_call_says_why_it_needs_that_permission(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "PERMISSION", "probe:read")  # what it claims, in place of mesh:inspect
    with pytest.raises(Failure, match=r"PERMISSION_MISSING\n[^$]*to learn its contract by reflection"):
        await _contracts(mesh, "probe", 10)
