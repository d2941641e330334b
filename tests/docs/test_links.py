"""Links lead somewhere, what the prose names exists, and the site's navigation is whole."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from opentelemetry.sdk import environment_variables

from meshkit.cli import VERBS
from meshkit.config import SharedConfig
from reference_services.brain.config import BrainConfig
from reference_services.router.config import RouterConfig
from reference_services.worker.config import WorkerConfig
from reference_services.zero.config import ZeroConfig
from tests.docs.pages import PAGES, ROOT, read

LINKED = (*PAGES, ROOT / "CHANGELOG.md")
ALL = [pytest.param(path, id=str(path.relative_to(ROOT))) for path in LINKED]
SETTINGS = {
    config.env_name(field)
    for config in (SharedConfig, BrainConfig, RouterConfig, WorkerConfig, ZeroConfig)
    for field in config.model_fields
} | {"CU_CONFIG_FILE", *(name for name in vars(environment_variables) if name.startswith("OTEL_"))}

_FOLDERS = (
    "meshkit/",
    "reference_services/",
    "tests/",
    "examples/",
    "benchmarks/",
    "protos/",
    "scripts/",
    "docs/",
)
_SETTING = re.compile(r"(?:CU|GRPC|OTEL|METRICS|LOG|BRAIN|ROUTER|WORKER|ZERO|HARVEST)_[A-Z0-9_]*[A-Z0-9]")
_OF_GRPC = {"GRPC_EXPERIMENTS", "GRPC_VERBOSITY"}
_VERB = re.compile(r"meshkit ([a-z]+)\b")


@pytest.mark.parametrize("path", ALL)
def test_links_lead_somewhere(path: Path) -> None:
    page = read(path)
    for line, target in page.links:
        place, name = f"{path.name}:{line}: {target}", target.partition("#")
        if "://" in target:
            assert target.startswith("https://"), place
            continue
        file = (path.parent / name[0]).resolve() if name[0] else path
        assert file.exists(), f"{place} is not there"
        assert file.is_relative_to(ROOT), f"{place} is outside of the project"
        if name[2]:
            assert name[2] in read(file).anchors, f"{place}: no heading makes that anchor"


@pytest.mark.parametrize("path", ALL)
def test_files_that_the_prose_names_exist(path: Path) -> None:
    for line, word in read(path).code:
        if word.startswith(_FOLDERS) and re.fullmatch(r"[\w./-]+", word):
            assert (ROOT / word).exists(), f"{path.name}:{line}: there is no {word}"


@pytest.mark.parametrize("path", ALL)
def test_tests_that_the_prose_names_exist(path: Path) -> None:
    for line, word in read(path).code:
        if (match := re.fullmatch(r"(tests/[\w./-]+\.py)::(\w+)", word)) is not None:
            file = ROOT / match[1]
            tests = file.read_text() if file.exists() else ""
            assert re.search(rf"^\s*(async )?def {match[2]}\(", tests, re.M), (
                f"{path.name}:{line}: there is no test {word}"
            )


@pytest.mark.parametrize("path", ALL)
def test_settings_that_the_prose_names_are_known(path: Path) -> None:
    for line, word in read(path).code:
        name = word.partition("=")[0]
        if _SETTING.fullmatch(name) and name not in _OF_GRPC:
            assert name.removesuffix("_FILE") in SETTINGS or name in SETTINGS, f"{path.name}:{line}: {name}"


@pytest.mark.parametrize("path", ALL)
def test_commands_that_the_prose_names_exist(path: Path) -> None:
    for line, word in read(path).code:
        if match := _VERB.match(word):
            assert match[1] in VERBS, f"{path.name}:{line}: there is no `meshkit {match[1]}`"


def test_tests_that_the_readme_s_table_names_exist() -> None:
    tests = (ROOT / "tests/docs/test_beside_bare_grpc.py").read_text()
    named = [word for _, word in read(ROOT / "README.md").code if word.startswith("test_")]
    assert named
    for name in named:
        assert f"def {name}(" in tests, name


def test_the_navigation_holds_every_page() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    listed = [page for entry in site["nav"] for page in entry.values()]
    docs = ROOT / "docs"
    assert sorted(listed) == sorted(str(path.relative_to(docs)) for path in docs.rglob("*.md"))


def test_pages_of_the_site_link_within_the_site() -> None:
    docs = ROOT / "docs"
    for path in docs.rglob("*.md"):
        for line, target in read(path).links:
            inside = "://" in target or (path.parent / target).resolve().is_relative_to(docs)
            assert inside, f"{path.name}:{line}: {target} leaves docs/"


def test_the_changelog_knows_the_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert re.search(rf"^## {re.escape(version)}\b", (ROOT / "CHANGELOG.md").read_text(), re.M)
