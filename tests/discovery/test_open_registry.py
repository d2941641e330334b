import subprocess
import sys

import pytest

from meshkit.discovery import open_registry


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("memory://", "memory://"),
        ("static://brain=h:1,h:2;router=[::1]:3", "static://brain=h:1,h:2;router=[::1]:3"),
        ("file:///tmp/mesh%20one", "file:///tmp/mesh%20one"),
        ("file://localhost/tmp/mesh", "file:///tmp/mesh"),
        ("redis://:a-password@h/1", "redis://h:6379/1"),
        ("rediss+sentinel://u:p@h,i:1/m", "rediss+sentinel://h:26379,i:1/m/0"),
        ("redis+cluster://h:1,i:2", "redis+cluster://h:1,i:2"),
    ],
)
async def test_a_url_opens_the_registry_that_it_names(url: str, shown: str) -> None:
    registry = open_registry(url, lease_ttl=10)
    assert str(registry) == shown
    await registry.close()


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("", "no scheme: there are dns://, file://, memory://, static://, redis"),
        ("brain:50051", "no scheme"),
        ("etcd://h:1", "unknown registry URL scheme etcd:// .*there are dns://, file://"),
        ("memory://x", "nothing may follow"),
        ("file://relative/path", "no absolute folder: write file:///"),
        ("file://", "no absolute folder"),
        ("file:///", "no folder of its own"),
        ("file:///tmp/x?poll=1", "takes no options"),
        ("file:///tmp/%00", "no folder of its own"),
        ("static://", "not service=host:port"),
        ("static://brain", "not service=host:port"),
        ("static://Brain=h:1", "not service=host:port"),
        ("static://brain=h", "'h' of 'h' is not host:port"),
        ("static://brain=", "is not host:port"),
        ("static://brain=h:1,h:1", "an address twice"),
        ("static://brain=h:1;brain=h:2", "brain is listed twice"),
        ("static://brain=h:99999", "is not host:port"),
    ],
)
def test_a_url_that_is_wrong_is_refused_by_name(url: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        open_registry(url, lease_ttl=10)


@pytest.mark.parametrize("lease_ttl", [0, -1, float("inf"), float("nan")])
def test_a_lease_ttl_is_a_time(lease_ttl: float) -> None:
    with pytest.raises(ValueError, match="lease TTL"):
        open_registry("memory://", lease_ttl=lease_ttl)


def test_implementations_are_imported_when_asked_for() -> None:
    code = (
        "import sys, meshkit.discovery as d; "
        "loaded = [m for m in sys.modules if m.startswith('meshkit.discovery.')]; "
        "assert loaded == ['meshkit.discovery.registry'], loaded; "
        "d.open_registry('memory://', lease_ttl=1); "
        "assert 'meshkit.discovery.file' not in sys.modules and 'grpc' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
