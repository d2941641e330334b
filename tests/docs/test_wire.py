"""docs/wire.md: its vectors are the code's, and a client written from it alone is let in."""

import base64
import hashlib
import hmac
import importlib.util
import json
import re
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshkit import metadata
from meshkit.config import SharedConfig
from meshkit.discovery import open_registry
from meshkit.replica import Replica
from meshkit.security.keys import KeyRow, StaticRing, derive, own_ring
from meshkit.security.keysfile import parse_keys
from meshkit.security.proof import Claim, Proof, make_proof
from meshkit.security.tokens import TokenVerifier
from meshkit.testing import LocalMesh

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "wire.md").read_text("utf-8")
TEXTS: list[str] = re.findall(r"^```text\n(.*?)\n```$", PAGE, re.MULTILINE | re.DOTALL)
VECTORS = dict(line.split(" = ", 1) for text in (TEXTS[0], TEXTS[3]) for line in text.splitlines())
PROOFS: list[str] = re.findall(r"^    x-cu-proof: (\S+)$", PAGE.partition("## Test vectors")[2], re.MULTILINE)

SECRET = "the-secret-that-this-test-gives-out-000"
GREET = "/greeter.v1.GreeterService/Greet"
GREET_ALL = "/greeter.v1.GreeterService/GreetAll"


@pytest.mark.parametrize("use", ["token", "proof"])
def test_the_keys_of_the_page_are_the_codes(use: Any) -> None:
    names = {name: VECTORS[name] for name in ("namespace", "project", "service")}
    key = derive(VECTORS["secret"].encode(), use=use, **names)
    assert key.hex() == VECTORS[f"{use} key, hex"]
    assert encoded(key) == VECTORS[f"{use} key, base64"]


async def test_the_token_of_the_page_is_taken_by_the_code() -> None:
    ring = own_ring(VECTORS["project"], [(VECTORS["kid"], VECTORS["secret"])])
    verifier = TokenVerifier("greeter", ring, namespace=VECTORS["namespace"], clock=lambda: 1_800_000_001)
    verified = await verifier.verify(VECTORS["token"])
    assert verified.digest == VECTORS["token, SHA-256"]
    assert (verified.principal.name, verified.principal.permissions) == ("till", {"greeter:greet"})
    head, claims, _ = VECTORS["token"].split(".")
    assert (head, claims) == tuple(
        encoded(VECTORS[f"token {part}"].encode()) for part in ("header", "claims")
    )


async def test_the_token_of_shield_of_the_page_is_taken_by_the_code() -> None:
    signer = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(VECTORS["shield private key, hex"]))
    holder = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(VECTORS["holder private key, hex"]))
    for who, key in (("shield", signer), ("holder", holder)):
        assert encoded(key.public_key().public_bytes_raw()) == VECTORS[f"{who} public key, base64"]
    row = KeyRow("shield", VECTORS["shield kid"], public_key=signer.public_key())
    verifier = TokenVerifier(
        "greeter", StaticRing([row]), namespace=VECTORS["namespace"], clock=lambda: 1_800_000_001
    )
    verified = await verifier.verify(VECTORS["shield token"])
    assert verified.digest == VECTORS["shield token, SHA-256"]
    assert verified.subject is not None
    assert (verified.principal.name, verified.subject.name) == ("till", "ada")
    head, claims, _ = VECTORS["shield token"].split(".")
    assert (head, claims) == tuple(
        encoded(VECTORS[f"shield token {part}"].encode()) for part in ("header", "claims")
    )
    claim = Claim(*_fields(TEXTS[4]))
    assert claim.canonical(VECTORS["ts"], "AAECAwQFBgcICQoLDA0ODw").decode() == TEXTS[4]
    once = bytes.fromhex(VECTORS["nonce, hex"])
    assert make_proof(claim, holder, now=int(VECTORS["ts"]) / 1000, nonce=once) == PROOFS[2]
    Proof.parse(PROOFS[2]).check_signature(claim, verified.proof_key)


def _fields(text: str) -> list[str]:
    """What a proof is about, of its twelve lines."""
    _, alg, kid, to, path, tenant, criticality, _, _, token, subject, body = (
        "" if line == "-" and place != 3 else line for place, line in enumerate(text.splitlines())
    )
    return [alg, kid, to, path, tenant, criticality, token, subject, body]


@pytest.mark.parametrize("number", [0, 1])
def test_the_proofs_of_the_page_are_the_codes(number: int) -> None:
    lines = TEXTS[1 + number].splitlines()
    _, alg, kid, to, path, tenant, criticality, ts, nonce, token, subject, body = (
        "" if line == "-" and place != 3 else line for place, line in enumerate(lines)
    )
    claim = Claim(alg, kid, to, path, tenant, criticality, token, subject, body)
    assert claim.canonical(ts, nonce).decode() == TEXTS[1 + number]
    key, once = bytes.fromhex(VECTORS["proof key, hex"]), bytes.fromhex(VECTORS["nonce, hex"])
    assert make_proof(claim, key, now=int(VECTORS["ts"]) / 1000, nonce=once) == PROOFS[number]


def test_the_other_vectors_are_the_codes() -> None:
    message = bytes.fromhex(VECTORS["message, hex"])
    assert hashlib.sha256(message).hexdigest() == VECTORS["message, SHA-256"]
    config = SharedConfig(project_secret=VECTORS["secret"])
    assert config.project_secrets[0].kid == VECTORS["kid of a bare secret"]


def test_the_keys_file_of_the_page_is_one() -> None:
    (example,) = re.findall(r"^```toml\n(.*?)\n```$", PAGE, re.MULTILINE | re.DOTALL)
    (row,) = parse_keys(example)
    assert row.keys is not None
    assert row.keys.token.hex() == VECTORS["token key, hex"]
    assert row.keys.proof.hex() == VECTORS["proof key, hex"]
    assert row.grants.subjects == {"till"}


def test_every_key_of_the_code_is_on_the_page() -> None:
    trailers = {metadata.INSTANCE, metadata.INCIDENT, metadata.UNPROCESSED, metadata.PUSHBACK}
    assert [key for key in metadata.REQUEST_KEYS | trailers if f"`{key}`" not in PAGE] == []


SERVING = ["serving.py", "resilience/admission.py", "transport/server.py", "transport/codec.py"]
SERVING += ["transport/reception.py", "resilience/fair_limit.py"]
ADMISSION = {"STARTING", "DRAINING"}
OPERATORS = {"KEY_CONTENDED", "PROJECTS_FULL", "REVOCATIONS_FULL"}  # no caller is told of these


def reasons_of_the_code() -> set[str]:
    """The reasons of all that the serving side refuses for, and of what signs."""
    files = [ROOT / "meshkit" / place for place in SERVING]
    files += (ROOT / "meshkit" / "security").rglob("*.py")
    code = "".join(file.read_text("utf-8") for file in files)
    found = re.findall(r'reason="([A-Z_]+)"|else "([A-Z_]{6,})"|^([A-Z_]+) = "\3"$', code, re.MULTILINE)
    return {"".join(each) for each in found} - OPERATORS


def test_every_refusal_of_the_serving_side_is_in_the_table() -> None:
    named = reasons_of_the_code()
    assert len(named) > 30
    assert sorted(reason for reason in named if f"`{reason}`" not in PAGE) == []


OF_SERVICES, OF_CALLERS = "| status | reason |", "A caller's own mesh gives these"


def listed(beginning: str, end: str) -> set[str]:
    """The reasons of the table between two texts of the page."""
    table = PAGE[PAGE.index(beginning) : PAGE.index(end)]
    cells = re.findall(r"^\|[^|]*\|([^|]*)\|", table, re.MULTILINE)
    return set(re.findall(r"`([A-Z_]+)`", "".join(cells)))


def test_every_reason_in_the_table_is_one_of_the_code() -> None:
    elsewhere = {"DEADLINE_EXCEEDED", "INTERNAL"}  # the status is the reason
    assert sorted(listed(OF_SERVICES, OF_CALLERS) - reasons_of_the_code() - elsewhere - ADMISSION) == []


def test_every_reason_of_a_callers_own_mesh_is_one_of_the_code() -> None:
    places = [
        ROOT / "meshkit" / place for place in ("balancing", "resilience", "transport", "security/shield")
    ]
    code = "".join(file.read_text("utf-8") for place in places for file in place.rglob("*.py"))
    code += (ROOT / "meshkit" / "calling.py").read_text("utf-8")
    reasons = listed(OF_CALLERS, "Other reasons are the service")
    assert len(reasons) > 10
    assert sorted(reason for reason in reasons if f'"{reason}"' not in code) == []


# A client from the page alone: nothing of meshkit below this line until the tests that call with it.


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass
class WireClient:
    """A caller of one service."""

    namespace: str
    project: str
    kid: str
    secret: str
    service: str
    subject: str

    def key(self, use: str) -> bytes:
        prk = hmac.digest(bytes(32), self.secret.encode(), "sha256")
        info = f"meshkit/v1/{self.namespace}/{self.project}/{self.service}/{use}"
        return hmac.digest(prk, info.encode() + b"\x01", "sha256")

    def token(self, tenant: str, permission: str) -> str:
        now = int(time.time())
        header = {"alg": "HS256", "typ": "at+jwt", "kid": f"{self.project}:{self.kid}"}
        claims = {
            "iss": self.project,
            "project": self.project,
            "sub": self.subject,
            "aud": self.service,
            "iat": now,
            "nbf": now,
            "exp": now + 60,
            "jti": secrets.token_hex(16),
            "tenants": [tenant],
            "permissions": [permission],
        }
        signed = ".".join(encoded(json.dumps(part).encode()) for part in (header, claims))
        return f"{signed}.{encoded(hmac.digest(self.key('token'), signed.encode(), 'sha256'))}"

    def metadata(
        self, path: str, message: bytes | None, *, tenant: str, permission: str, to: str = "-"
    ) -> list[tuple[str, str]]:
        token, ts, nonce = (
            self.token(tenant, permission),
            str(int(time.time() * 1000)),
            secrets.token_bytes(16),
        )
        lines = [
            "meshkit-proof-v1",
            "HS256",
            f"{self.project}:{self.kid}",
            to,
            path,
            tenant,
            "-",
            ts,
            encoded(nonce),
            hashlib.sha256(token.encode()).hexdigest(),
            "-",
            "-" if message is None else hashlib.sha256(message).hexdigest(),
        ]
        signature = hmac.digest(self.key("proof"), "\n".join(lines).encode(), "sha256")
        return [
            ("authorization", f"Bearer {token}"),
            ("x-cu-proof", f"ts={ts};nonce={encoded(nonce)};sig={encoded(signature)}"),
            ("x-cu-to", to),
            ("x-cu-tenant", tenant),
        ]


CLIENT = WireClient("contextunity", "local", "k1", SECRET, "greeter", "page")
ADA = bytes.fromhex("0a03416461")


async def greet(address: str, to: str) -> bytes:
    headers = CLIENT.metadata(GREET, ADA, tenant="acme", permission="greeter:greet", to=to)
    async with grpc.aio.insecure_channel(address) as channel:
        reply: bytes = await channel.unary_unary(GREET)(ADA, metadata=headers, timeout=10)
    return reply


async def greet_all(address: str) -> bytes:
    async def people() -> AsyncIterator[bytes]:
        yield ADA
        yield ADA

    headers = CLIENT.metadata(GREET_ALL, None, tenant="acme", permission="greeter:greet")
    async with grpc.aio.insecure_channel(address) as channel:
        reply: bytes = await channel.stream_unary(GREET_ALL)(people(), metadata=headers, timeout=10)
    return reply


def greeter() -> Any:
    spec = importlib.util.spec_from_file_location("wire_greeter", ROOT / "examples" / "greeter" / "main.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Greeter


async def test_the_client_of_the_page_calls_a_greeter() -> None:
    local = LocalMesh(greeter(), settings={"project_secret": f"k1:{SECRET}"})
    async with local:
        (instance_id,) = local.instances
        found = local.service(instance_id).instance
        assert found is not None
        assert b"Hello Ada (acme)" in await greet(found.address, instance_id)
        assert b"Hello Ada (acme)" in await greet(found.address, "-")
        assert b"Hello Ada, Ada" in await greet_all(found.address)


async def test_the_client_of_the_page_finds_a_greeter_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "registry"
    config = SharedConfig(
        project_secret=f"k1:{SECRET}", state_dir=tmp_path, grpc_port=0, drain_propagation_s=0
    )
    registry = open_registry(f"file://{folder}", lease_ttl=10)
    replica = Replica(greeter(), config, registry)
    await replica.start()
    try:
        (path,) = folder.glob("greeter/*.json")
        record = json.loads(path.read_bytes())
        assert record["state"] == "serving"
        assert b"Hello Ada" in await greet(record["address"], record["instance_id"])
        assert b"Hello Ada" in await greet(record["address"], "-")
    finally:
        await replica.drain()
        await registry.close()
