"""What `pip install meshkit` brings."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_wheel_holds_all_that_runs_and_nothing_else(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for wanted in (
        "meshkit/py.typed",
        "meshkit/_gen/meshkit/v1/options_pb2.py",
        "reference_services/py.typed",
        "reference_services/_gen/contextunity/brain/v1/brain_client.py",
        "reference_services/worker/harvester/data/products.csv",
        "reference_services/demo/docs/wire.md",
    ):
        assert wanted in names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"meshkit", "reference_services"}
    assert not [name for name in names if "__pycache__" in name or name.endswith((".env", ".sqlite", ".pyc"))]
    metadata = next(name for name in names if name.endswith("entry_points.txt"))
    with zipfile.ZipFile(wheel) as archive:
        assert "meshkit = meshkit.cli:main" in archive.read(metadata).decode()
