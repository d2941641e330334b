"""Where the services keep what they know."""

from collections.abc import Iterator

import pytest

from tests import postgres


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    """A new database; empty for files in the state folder."""
    if request.param == "sqlite":
        yield ""
    else:
        name = postgres.new_database()
        yield postgres.server().url(name)
        postgres.drop_database(name)
