"""The authority of a mesh whose calls are encrypted."""

import pytest

from tests.certificates import Signer


@pytest.fixture
def authority() -> Signer:
    return Signer()
