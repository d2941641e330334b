"""A caller that signs by hand, with a knob for everything that can be wrong."""

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

SECRET = "a-secret-of-tests-that-is-long-enough-01"
SETTINGS = {"project_secret": f"k1:{SECRET}"}
ABSENT: Any = object()

Headers = list[tuple[str, str]]


class Clock:
    """A clock that tests set."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def hkdf(secret: bytes, info: bytes, length: int = 32) -> bytes:
    """RFC 5869 with SHA-256 and an empty salt."""
    prk = hmac.digest(bytes(32), secret, "sha256")
    okm, block = b"", b""
    for count in range(1, -(-length // 32) + 1):
        block = hmac.digest(prk, block + info + bytes([count]), "sha256")
        okm += block
    return okm[:length]


def compact(header: Mapping[str, Any], claims: Mapping[str, Any], key: bytes) -> str:
    parts = [b64(json.dumps(part).encode()) for part in (header, claims)]
    return ".".join([*parts, b64(hmac.digest(key, ".".join(parts).encode(), "sha256"))])


@dataclass(frozen=True)
class Handmade:
    """Who calls, with which secret."""

    service: str
    secret: str = SECRET
    project: str = "local"
    kid: str = "k1"
    namespace: str = "contextunity"
    name: str = "script"
    tenants: tuple[str, ...] = ("acme",)
    permissions: tuple[str, ...] = ("*",)
    offset: float = 0.0
    clock: Any = time.time

    def key(self, use: str, service: str = "") -> bytes:
        info = f"meshkit/v1/{self.namespace}/{self.project}/{service or self.service}/{use}"
        return hkdf(self.secret.encode(), info.encode())

    def now(self) -> float:
        return float(self.clock()) + self.offset

    def token(
        self, *, header: Mapping[str, Any] | None = None, key: bytes | None = None, **claims: Any
    ) -> str:
        now = int(self.now())
        made = {
            "iss": self.project,
            "project": self.project,
            "sub": self.name,
            "aud": self.service,
            "iat": now,
            "nbf": now,
            "exp": now + 300,
            "jti": secrets.token_hex(8),
            "tenants": list(self.tenants),
            "permissions": list(self.permissions),
            **claims,
        }
        made = {name: value for name, value in made.items() if value is not ABSENT}
        head = {"typ": "at+jwt", "alg": "HS256", "kid": f"{self.project}:{self.kid}", **(header or {})}
        head = {name: value for name, value in head.items() if value is not ABSENT}
        return compact(head, made, key or self.key("token", made.get("aud") if key is None else ""))

    def headers(
        self,
        path: str,
        body: bytes | None,
        *,
        token: str | None = None,
        to: str = "-",
        tenant: str = "acme",
        criticality: str = "",
        subject: str = "",
        ts: int | None = None,
        nonce: bytes | None = None,
        sent: Mapping[str, Any] | None = None,
    ) -> Headers:
        """Signed metadata. `sent` replaces, adds or (ABSENT) removes what is sent after signing."""
        token = self.token() if token is None else token
        moment = str(int(self.now() * 1000) if ts is None else ts)
        once = b64(secrets.token_bytes(16) if nonce is None else nonce)
        lines = (
            "meshkit-proof-v1",
            "HS256",
            f"{self.project}:{self.kid}",
            to,
            path,
            tenant or "-",
            criticality or "-",
            moment,
            once,
            sha(token.encode()),
            sha(subject.encode()) if subject else "-",
            "-" if body is None else sha(body),
        )
        signature = b64(hmac.digest(self.key("proof"), "\n".join(lines).encode(), "sha256"))
        made = {
            "authorization": f"Bearer {token}",
            "x-cu-proof": f"ts={moment};nonce={once};sig={signature}",
            "x-cu-to": to,
            "x-cu-tenant": tenant,
            "x-cu-criticality": criticality,
            "x-cu-subject": subject,
            **(sent or {}),
        }
        return [(key, value) for key, value in made.items() if value and value is not ABSENT]


@dataclass
class Outcome:
    """How a call ended."""

    code: str
    message: str = ""
    reason: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    trailers: dict[str, str | bytes] = field(default_factory=dict)
    replies: list[bytes] = field(default_factory=list)

    @property
    def unprocessed(self) -> bool:
        return self.trailers.get("x-cu-unprocessed") == "1"


async def call(
    address: str,
    path: str,
    messages: bytes | Iterable[bytes],
    headers: Headers,
    *,
    streams: tuple[bool, bool] = (False, False),
    timeout: float = 10,
) -> Outcome:
    """Makes one call with exactly this metadata, and takes its outcome apart."""
    options = [("grpc.max_send_message_length", -1), ("grpc.enable_retries", 0)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        arity = f"{'stream' if streams[0] else 'unary'}_{'stream' if streams[1] else 'unary'}"
        given = messages if isinstance(messages, bytes) else _stream(messages)
        made = getattr(channel, arity)(path)(given, metadata=headers, timeout=timeout)
        try:
            replies = [reply async for reply in made] if streams[1] else [await made]
        except grpc.aio.AioRpcError as error:
            return _refusal(error)
        return Outcome("OK", replies=replies, trailers=dict(await made.trailing_metadata()))


async def _stream(messages: Iterable[bytes]) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


def _refusal(error: grpc.aio.AioRpcError) -> Outcome:
    trailers = dict(error.trailing_metadata() or ())
    outcome = Outcome(error.code().name, error.details() or "", trailers=trailers)
    info, raw = ErrorInfo(), trailers.get("grpc-status-details-bin")
    if isinstance(raw, bytes):
        status = Status.FromString(raw)
        assert status.message == outcome.message
        assert status.details[0].Unpack(info)
        assert info.domain == "meshkit"
        outcome.reason, outcome.facts = info.reason, dict(info.metadata)
    return outcome
