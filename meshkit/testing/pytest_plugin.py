"""The pytest plugin: fixtures for those who test services of the mesh.

pytest loads it in every project that has meshkit installed, so it imports nothing of weight before a fixture is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from meshkit.service import CUService
    from meshkit.testing.local import LocalMesh


class MakeLocalMesh(Protocol):
    """Makes a `LocalMesh`; takes what that takes."""

    def __call__(self, *services: type[CUService], **options: Any) -> LocalMesh:
        """Makes one; it runs for the length of its `async with`."""
        ...


@pytest.fixture
def local_mesh_settings() -> Mapping[str, Any]:
    """Settings, by field name, of each mesh that `local_mesh` makes: none. A project's conftest may override it."""
    return {}


@pytest.fixture
def local_mesh(local_mesh_settings: Mapping[str, Any]) -> MakeLocalMesh:
    """Makes meshes within this process.

        async def test_it_greets(local_mesh):
            async with local_mesh(Greeter) as mesh:
                reply = await mesh.client(GreeterClient).greet(pb.GreetRequest(name="Ada"))

    The settings of `local_mesh_settings` hold for each; a call's own `settings` go before them.
    """

    def make(*services: type[CUService], **options: Any) -> LocalMesh:
        from meshkit.testing.local import LocalMesh

        settings = {**local_mesh_settings, **(options.pop("settings", None) or {})}
        return LocalMesh(*services, settings=settings, **options)

    return make
