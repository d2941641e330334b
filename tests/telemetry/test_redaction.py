"""Nothing secret gets into the log: neither what the process knows to be secret, nor what looks like it."""

import json
import subprocess
import sys

import pytest

from meshkit.config import Secret, SharedConfig, known_secrets
from meshkit.telemetry.redaction import HIDDEN, Redactor

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"
PEM = "-----BEGIN PRIVATE KEY-----\nMIIEcanary\n-----END PRIVATE KEY-----"


@pytest.mark.parametrize(
    "text",
    [
        "cannot reach redis://mesh:canary@redis:6379/0",
        "cannot reach postgresql://u:ca@na:ry/canary@db/x?sslmode=verify-full",
        "git+https://canary@host/repository",
        "db password=canary host=db",
        "PGPASSWORD=canary",
        "connect(password='canary, with a comma')",
        'the answer was {"api_key": "canary", "id": 7}',
        "authorization: Bearer canary.canary",
        "Authorization: Basic Y2FuYXJ5Cg==canary",
        "x-cu-proof: ts=1;nonce=abc;sig=canary",
        "https://host/path?access_token=canary&page=2",
        PEM.replace("MIIEcanary", "canary"),
        PEM.replace("MIIEcanary", "canary").partition("-----END")[0],
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str) -> None:
    shown = Redactor().text(text)
    assert "canary" not in shown
    assert HIDDEN in shown


@pytest.mark.parametrize(
    "text",
    [
        "the token expired 5 s ago",
        "token = self._source.obtain(call)",
        "GRPC_TLS_SERVER_KEY: there is no file /run/key.pem",
        "ipv4:127.0.0.1:5000 brain@host",
        "set CU_PROJECT_SECRET, or CU_PROJECT_SECRET_FILE",
        "https://host:4318/v1/traces",
    ],
)
def test_what_does_not_is_left_as_it_is(text: str) -> None:
    assert Redactor().text(text) == text


def test_a_token_is_hidden_wherever_it_stands() -> None:
    assert Redactor().text(f"refused {TOKEN}, sorry") == f"refused {HIDDEN}, sorry"


def test_facts_are_hidden_by_their_names_and_in_their_depths() -> None:
    class Loud:
        def __repr__(self) -> str:
            return "Loud(password='canary')"

    facts = {
        "password": "canary",
        "token_id": "7",
        "headers": {"authorization": "canary", "accept": "*"},
        "seen": ["redis://u:canary@h", 3],
        "object": Loud(),
        "count": 3,
    }
    shown = Redactor()(None, "info", facts)
    assert "canary" not in str(shown)
    assert (shown["token_id"], shown["count"]) == ("7", 3)
    assert shown["headers"]["accept"] == "*"


def test_all_secrets_of_a_configuration_are_known() -> None:
    config = SharedConfig(
        project_secret=Secret("a:" + "x" * 40 + ",b:" + "y" * 40),
        redis_url=Secret("redis://user:p4ssword@redis:6379/0"),
        registry_url="redis://user:0ther-one@redis:6379/0",
    )
    known = set(known_secrets(config))
    assert {"x" * 40, "y" * 40, "p4ssword", "0ther-one"} <= known
    assert Redactor(known).text("registry=redis://redis:6379/0") == "registry=redis://redis:6379/0"


PROGRAM = """
import logging, structlog
from meshkit.telemetry.logs import configure, hide
configure("INFO", json={json}, secret=["correct horse"])
hide(["battery staple"])
def fail(secret):
    raise ValueError("bad: correct " + secret + ", battery" + " staple, redis://u:canary@h")
try:
    fail("horse")
except ValueError as error:
    structlog.get_logger("ours").exception("ours", dsn="password=canary")
    logging.getLogger("theirs").exception("theirs said %s", error)
"""


@pytest.mark.parametrize("as_json", [True, False])
def test_tracebacks_of_ours_and_of_others_are_covered(as_json: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(json=as_json)], capture_output=True, text=True, check=True
    )
    assert "canary" not in done.stderr
    assert "correct horse" not in done.stderr
    assert "battery staple" not in done.stderr
    assert done.stderr.count("ValueError") == 2
    if as_json:
        ours, _ = map(json.loads, done.stderr.splitlines())
        assert ours["exception"][0]["exc_value"] == "bad: ***, ***, redis://u:***@h"
