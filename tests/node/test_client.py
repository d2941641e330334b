"""The client for Node, whose signing was written from docs/wire.md alone, calls real brains and a real Shield."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.programs import CLIENT, NODE, Programs

pytestmark = pytest.mark.node

ANSWERED_AND_REFUSED = [
    "right  Upsert stores two cells: STATUS_CREATED STATUS_CREATED",
    "right  Get reads one: Green tea, leaf…, infusion 1",
    "right  Search streams both: leaf…-1 leaf…-2",
    "right  a proof, used twice: UNAUTHENTICATED PROOF_REPLAYED",
    "right  a message, altered after it was signed: UNAUTHENTICATED PROOF_MISMATCH",
    "right  a permission that the token does not claim: PERMISSION_DENIED PERMISSION_MISSING",
    "right  a permission that was never granted: PERMISSION_DENIED GRANT_EXCEEDED",
    "right  a tenant that was never granted: PERMISSION_DENIED GRANT_EXCEEDED",
]
FORGED = [
    "right  a token that Shield did not issue: UNAUTHENTICATED TOKEN_AUTHORITY",
    "right  a token that is bound to a key of others: UNAUTHENTICATED PROOF_MISMATCH",
]
UNCERTIFIED = "right  a caller without a certificate: UNAVAILABLE"
END = "all as it should be"


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    made = Programs(tmp_path / "state")
    yield made
    made.end()


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Its lines, without the word that it makes up for each run."""
    assert done.stderr == ""
    return re.sub(r"leaf[0-9a-f]{12}", "leaf…", done.stdout).splitlines()


def start_brain(programs: Programs, tenants: str = '["acme"]') -> None:
    keys = programs.write_keys(tenants, '["brain:read", "brain:write"]')
    programs.start("brain", CU_PROJECT_KEYS_FILE=str(keys))


def test_it_calls_with_tokens_of_its_own(programs: Programs) -> None:
    start_brain(programs)
    done = programs.client()
    assert said(done) == ["tokens of our own, over plain TCP", *ANSWERED_AND_REFUSED, END]
    assert done.returncode == 0


def test_it_calls_over_mtls(programs: Programs) -> None:
    programs.certify()
    start_brain(programs)
    done = programs.client()
    assert said(done) == ["tokens of our own, over mTLS", *ANSWERED_AND_REFUSED, UNCERTIFIED, END]
    assert done.returncode == 0


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "mtls"])
def test_it_calls_with_tokens_of_shield(programs: Programs, encrypted: bool) -> None:
    if encrypted:
        programs.certify()
    programs.setting(CU_SHIELD_GRPC_URL=programs.start("shield", SHIELD_KEY_ACTIVATION_S="0"))
    programs.write_project()
    programs.start("brain")
    done = programs.client()
    way = "mTLS" if encrypted else "plain TCP"
    others = [*FORGED, UNCERTIFIED] if encrypted else FORGED
    assert said(done) == [f"tokens of Shield, over {way}", *ANSWERED_AND_REFUSED, *others, END]
    assert done.returncode == 0


def test_it_fails_where_brain_lets_through_what_it_should_refuse(programs: Programs) -> None:
    start_brain(programs, tenants='["acme", "globex"]')
    done = programs.client()
    *others, wrong, end = said(done)[1:]
    assert others == ANSWERED_AND_REFUSED[:-1]
    assert wrong.startswith("WRONG  a tenant that was never granted: ")
    assert wrong.endswith("not PERMISSION_DENIED GRANT_EXCEEDED")
    assert (end, done.returncode) == ("1 not as they should be", 1)


def test_it_signs_what_the_page_says_byte_by_byte() -> None:
    vectors = CLIENT / "vectors.test.js"
    done = subprocess.run([NODE, "--test", vectors], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
    assert re.search(r"^. pass 4$", done.stdout, re.MULTILINE), done.stdout


def test_its_types_hold() -> None:
    checker = CLIENT / "node_modules" / "typescript" / "bin" / "tsc"
    done = subprocess.run(
        [NODE, checker, "--project", CLIENT], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout
