"""What is done with any bytes at all: nothing breaks, and nothing forged is taken.

A target returns where the bytes were refused as they should be, or were well-formed where what is well-formed may be
taken. It raises otherwise: `Accepted` for what was taken and must not be, and whatever broke.
"""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from meshkit.config import SealingKey
from meshkit.errors import MeshError
from meshkit.redis.sealing import Sealer, SealRefused
from meshkit.security.keyrows import dump_row, parse_row
from meshkit.security.keys import KeyRow, own_ring
from meshkit.security.keysfile import parse_keys
from meshkit.security.projects.rows import ProjectRow, RowCodec, RowRefused
from meshkit.security.proof import Claim, Proof
from meshkit.security.revoking import Revocation, RevocationCodec, RevocationRefused
from meshkit.security.tokens import TokenVerifier
from tests.security.handmade import SECRET, Clock, Handmade, b64, sha

CLOCK = Clock()
CALLER = Handmade("brain", project="shop", clock=CLOCK)
TOKEN = CALLER.token(jti="j")
PATH = "/greeter.v1.GreeterService/Greet"
BODY = b"\n\x03Ada"
HEADERS = dict(CALLER.headers(PATH, BODY, token=TOKEN, to="brain-1", nonce=bytes(range(16))))
PROOF = HEADERS["x-cu-proof"]
VERIFIER = TokenVerifier("brain", own_ring("shop", [("k1", SECRET)]), namespace="contextunity", clock=CLOCK)
CLAIM = Claim(
    "HS256",
    "shop:k1",
    "brain-1",
    PATH,
    "acme",
    "",
    sha(TOKEN.encode()),
    "",
    sha(BODY),
)
SEALER = Sealer([SealingKey("a", b"\x07" * 32)])
PLACE = {"key": "contextunity:projects", "field": "shop:k1"}
ROW = KeyRow("shop", "k1", secret=SECRET.encode())
SEALED = RowCodec(SEALER, "contextunity").seal(ProjectRow("shop", "k1", ROW, 1, "ops"))
KEYS_FILE = (
    '[[key]]\nproject = "shop"\nkid = "k1"\nsecret = "' + SECRET + '"\n'
    'grants = { tenants = ["acme"], permissions = ["brain:read"], subjects = ["*"], delegate = [] }\n'
).encode()
ROW_JSON = json.dumps(dump_row(ROW)).encode()
REVOCATION = b'{"version": 1, "jti": "j", "until": 1800000330, "by": "ops@host"}'


class Accepted(AssertionError):
    """Something was taken that must not be."""


def finish(work: Coroutine[Any, Any, Any]) -> Any:
    """Runs a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waited")


def token(data: bytes) -> None:
    """Any text as a token, and any header and claims under a signature of somebody who has no key."""
    text = data.decode("latin-1")
    if text == TOKEN:
        return
    head, _, said = data.partition(b"\n")
    forged = ".".join(map(b64, (head, said, b"s" * 32)))
    for each in (text, forged):
        try:
            finish(VERIFIER.verify(each))
        except MeshError as refused:
            refused.message.encode()
        else:
            raise Accepted("a token")


def claims(data: bytes) -> None:
    """Any claims, signed with the right key: they are read, and break nothing."""
    signed = f"{TOKEN.partition('.')[0]}.{b64(data)}"
    mac = b64(hmac.digest(CALLER.key("token"), signed.encode(), "sha256"))
    try:
        verified = finish(VERIFIER.verify(f"{signed}.{mac}"))
    except MeshError as refused:
        refused.message.encode()
    else:
        if verified.principal.project != "shop" or verified.audience != "brain":
            raise Accepted("claims of another project, or for another service")


def proof(data: bytes) -> None:
    """Any text as the proof of a request."""
    text = data.decode("latin-1")
    if text == PROOF:
        return
    try:
        Proof.parse(text).check_signature(CLAIM, CALLER.key("proof"))
    except MeshError as refused:
        refused.message.encode()
    else:
        raise Accepted("a proof")


def sealed(data: bytes) -> None:
    """Any bytes as a sealed record."""
    if data == SEALED:
        return
    try:
        SEALER.open(data, **PLACE)
    except SealRefused:
        return
    raise Accepted("a sealed record")


def stored_row(data: bytes) -> None:
    """Any bytes as what a sealed record of the project store holds."""
    text = SEALER.seal(data, **PLACE) if len(data) < 60_000 else data
    try:
        row = RowCodec(SEALER, "contextunity").open(PLACE["field"], text)
    except RowRefused:
        return
    if (row.project, row.kid) != ("shop", "k1"):
        raise Accepted("the row of another key")


def key_row(data: bytes) -> None:
    """Any JSON as a key row: what is taken is written down as it was read."""
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        return
    try:
        row = parse_row(fields, "it")
    except ValueError:
        return
    if parse_row(dump_row(row), "it") != row:
        raise Accepted("a row that is not what it says")


def keys_file(data: bytes) -> None:
    """Any text as a keys file."""
    try:
        rows = parse_keys(data.decode("utf-8", "replace"))
    except ValueError:
        return
    if len({(row.project, row.kid) for row in rows}) != len(rows):
        raise Accepted("a key twice")


def revocation(data: bytes) -> None:
    """Any bytes as a revocation."""
    try:
        found = RevocationCodec(Sealer([]), "contextunity").open(data)
    except RevocationRefused:
        return
    if bool(found.jti) == bool(found.project):
        raise Accepted(f"a revocation of nothing: {Revocation()}")


@dataclass(frozen=True)
class Target:
    """What bytes are given to, and bytes that are nearly right."""

    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    share: float


def _part(number: int) -> bytes:
    part = TOKEN.split(".")[number]
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


TARGETS = {
    "token": Target(token, (TOKEN.encode(), _part(0) + b"\n" + _part(1)), 0.25),
    "claims": Target(claims, (_part(1),), 0.15),
    "proof": Target(proof, (PROOF.encode(),), 0.2),
    "sealed": Target(sealed, (SEALED,), 0.2),
    "stored_row": Target(stored_row, (SEALER.open(SEALED, **PLACE),), 0.05),
    "key_row": Target(key_row, (ROW_JSON,), 0.05),
    "keys_file": Target(keys_file, (KEYS_FILE,), 0.05),
    "revocation": Target(revocation, (REVOCATION,), 0.05),
}
"""The targets, each with its share of all inputs: those cost least that need most."""
