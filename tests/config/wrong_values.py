"""Values that settings cannot have, and what is said of each: from the settings' own types and bounds, and by hand.

By hand are those of settings whose values have a grammar of their own, such as URLs. Each setting must be in one of the
tables here, so that a new one is not forgotten.
"""

from __future__ import annotations

import enum
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import annotated_types
from pydantic.fields import FieldInfo

from meshkit.config import SharedConfig
from meshkit.config.allowed import allowed, grammar_of
from meshkit.config.units import units_of
from reference_services.brain.config import BrainConfig
from reference_services.router.config import RouterConfig
from reference_services.shield.config import ShieldConfig
from reference_services.worker.config import WorkerConfig
from reference_services.zero.config import ZeroConfig

CLASSES = (SharedConfig, BrainConfig, RouterConfig, WorkerConfig, ZeroConfig, ShieldConfig)

Case = tuple[str, str]
"""A value, and how what is said of it begins after the setting's name."""

HOST = "is not a host; give a name or an address, without a port: 127.0.0.1, ::1, brain.internal"
ADDRESS = "is not host:port; write it as brain-1:50051 or [::1]:50051"
REDIS = "write redis://user:password@host:6379/0, or rediss:// for TLS"
REGISTRY = "use redis://host, dns://?brain=host:port&router=host:port, static://brain=host:port,host:port,"
OTLP = "write http://host:4318 or https://host:4318, the port of OTLP over HTTP"
POSTGRESQL = "write postgresql://user:password@host/database, sqlite:////absolute/path, or leave it empty"
STATE = "write postgresql://user:password@host/database, redis://user:password@host:6379/0, sqlite:////absolute/path,"
ENDPOINT = "it is no URL of an endpoint; write http(s)://host:port/v1; the key has its own setting"
MAKE_SECRET = "make one with `openssl rand -hex 32`"
MAKE_KEY = "make one with `openssl rand -base64 32 | tr '/+' '_-'`"
MASTER_KEY = "it is not base64url of 32 bytes; make one with `openssl rand -base64 32 | tr '+/' '-_'`"

_HOSTS: list[Case] = [("a b", f"'a b' {HOST}"), ("h:1", f"'h:1' {HOST}"), ("1.2.3", f"'1.2.3' {HOST}")]
_ADDRESSES: list[Case] = [
    ("brain", f"'brain' {ADDRESS}"),
    ("brain:0", f"'brain:0' {ADDRESS}"),
    ("brain:99999", f"'brain:99999' {ADDRESS}"),
    ("http://brain:1", f"'http://brain:1' {ADDRESS}"),
]
_REDIS: list[Case] = [
    ("redis://u:CANARY@h/x", "its path is not the number of a database; write /0 to /65535, or leave it out"),
    (
        "redis://u:CANARY@h:0",
        "host 1 of 1 is not host or host:port; write redis-1:6379 or [::1]:6379, with a port",
    ),
    ("redis://u:CANARY@a,b", "it names 2 hosts; name one; several are redis+sentinel:// or redis+cluster://"),
    (
        "rediss://u:CANARY@h?ssl_cert_reqs=none",
        "ssl_cert_reqs may be `required` only: without it anybody on the way",
    ),
    (
        "redis://u:CANARY@h?ssl_ca_certs=/a",
        "the option ssl_ca_certs is TLS's, and the scheme has none; write rediss",
    ),
]
_DATABASE: list[Case] = [
    ("postgresql://[", f"it cannot be read as a URL; {POSTGRESQL}"),
    ("postgresql://u:CANARY@h", f"it names no database; {POSTGRESQL}"),
    ("postgresql://u:CANARY@h:x/d", f"the port of a host is not within 1 to 65535; {POSTGRESQL}"),
    ("postgresql://u:CANARY@h:1,h:65536/d", f"the port of a host is not within 1 to 65535; {POSTGRESQL}"),
    ("postgresql://u:CAN/ARY@h/d", "there is an @ beyond the host; percent-encode what is special in user and"),
    ("postgresql://u:CANARY@h/d?sslmode=on", "there is no sslmode 'on'; it must be disable, allow, prefer, require, "),
    ("sqlite:///", "it names no file; write sqlite:////absolute/path, or leave it empty"),
]  # fmt: skip
_POSTGRESQL: list[Case] = [
    *_DATABASE,
    ("mysql://u:CANARY@h/d", f"it is the URL of neither PostgreSQL nor SQLite; {POSTGRESQL}"),
    ("redis://u:CANARY@h", f"it is the URL of neither PostgreSQL nor SQLite; {POSTGRESQL}"),
]
_STATE: list[Case] = [
    *_DATABASE,
    *_REDIS,
    ("mysql://u:CANARY@h/d", f"it is the URL of neither PostgreSQL nor Redis nor SQLite; {STATE}"),
]
_ENDPOINTS: list[Case] = [
    ("localhost:11434", ENDPOINT),
    ("ftp://h/v1", ENDPOINT),
    ("http://", ENDPOINT),
    ("http://[", ENDPOINT),
    ("http://h:99999/v1", ENDPOINT),
    ("http://u:CANARY@h/v1", ENDPOINT),
]
_MASTER_KEYS: list[Case] = [("CANARY", MASTER_KEY), ("A" * 42, MASTER_KEY), ("A" * 44, MASTER_KEY)]

BY_HAND: dict[str, list[Case]] = {
    "GRPC_HOST": _HOSTS,
    "CU_HEALTH_HOST": _HOSTS,
    "METRICS_HOST": _HOSTS,
    "GRPC_ADVERTISE": _ADDRESSES,
    "CU_SHIELD_GRPC_URL": [*_ADDRESSES, ("a:1,a:1", "'a:1,a:1' names an address twice; write each once, with commas:")],
    "REDIS_URL": [
        *_REDIS,
        ("h:6379", f"it has no scheme; {REDIS}"),
        ("http://u:CANARY@h", "its scheme is none of Redis's; it must be redis://, redis+cluster://,"),
    ],
    "CU_REGISTRY_URL": [
        *_REDIS,
        ("brain:50051", f"it has no scheme; {REGISTRY}"),
        ("etcd://u:CANARY@h", f"there is no registry of the scheme 'etcd'; {REGISTRY}"),
        ("file://folder", "the folder of a file registry is not absolute; write file:///folder, with three strokes"),
        ("memory://x", "memory:// has nothing after it; write memory://"),
        ("static://brain=h", f"'h' {ADDRESS}"),
        ("static://Brain=h:1", "'Brain' is not a service name; it must match [a-z][a-z0-9-]{0,39}"),
        ("dns://brain=h:1", f"it is not dns://?service=host:port, each service once; {REGISTRY}"),
    ],
    "REDIS_SECRET_KEY": [
        ("CANARY", "key 1 of 1 has no kid; write kid:key,kid:key; or false, to leave records plain"),
        ("k:CANARY", f"key 1 of 1 is not 32 bytes in base64url; {MAKE_KEY}"),
        ("a b:CANARY", "the kid of key 1 of 1 is not a key id; it must match [A-Za-z0-9_-]{1,32}"),
        (f"a:{'A' * 43},a:{'B' * 42}A", "a kid stands there twice; give each key a kid of its own"),
        (f"a:{'A' * 43},b:{'A' * 43}", "a key stands there twice; make a new key for each kid"),
    ],
    "CU_PROJECT_SECRET": [
        ("CANARY", f"the secret is 6 bytes, shorter than 32; {MAKE_SECRET}"),
        ("CANARY" * 200, f"the secret is 1200 bytes, longer than 1024; {MAKE_SECRET}"),
        ("a:CANARY", f"secret 1 of 1 is 6 bytes, shorter than 32; {MAKE_SECRET}"),
        (f"a:{'x' * 32},CANARY", "secret 2 of 2 has no kid; write kid:secret,kid:secret; a secret has no ','"),
        (f"a:{'x' * 32},a:{'y' * 32}", "a kid stands there twice; give each secret a kid of its own"),
    ],
    "CU_LB_POLICIES": [
        ("brain", "a part has no '='; write name=value,name=value"),
        ("brain=fastest", "'fastest' is none of its values; it must be round_robin, least_request, peak_ewma or"),
        ("Brain=peak_ewma", "'Brain' is not a service name; it must match [a-z][a-z0-9-]{0,39}"),
    ],
    "OTEL_EXPORTER_OTLP_ENDPOINT": [
        ("collector:4318", f"it is no http:// or https:// URL; {OTLP}"),
        ("http://", f"it names no host; {OTLP}"),
        ("http://[", f"it cannot be read as a URL; {OTLP}"),
        ("http://collector:99999", f"its port is not within 1 to 65535; {OTLP}"),
        ("http://collector:4317", f"port 4317 is that of OTLP over gRPC, and this is sent over HTTP; {OTLP}"),
    ],
    "BRAIN_DATABASE_URL": _POSTGRESQL,
    "WORKER_DATABASE_URL": _POSTGRESQL,
    "SHIELD_DATABASE_URL": _POSTGRESQL,
    "ROUTER_DATABASE_URL": _STATE,
    "ZERO_DATABASE_URL": _STATE,
    "BRAIN_EMBEDDING_BASE_URL": _ENDPOINTS,
    "ROUTER_LLM_BASE_URL": _ENDPOINTS,
    "ZERO_MASTER_KEY": _MASTER_KEYS,
    "SHIELD_MASTER_KEY": _MASTER_KEYS,
    "ZERO_DEFAULT_REGION": [("Germany", "it is no country with telephone numbers; write two letters of ISO 3166-1")],
    "HARVEST_ROOTS": [("feeds", "'feeds' is not absolute; write whole paths")],
}  # fmt: skip
"""Values by setting that only its own grammar tells to be wrong. What is called CANARY must not be told."""

ANY_TEXT = {
    "BRAIN_EMBEDDING_API_KEY",
    "BRAIN_EMBEDDING_MODEL",
    "ROUTER_LLM_API_KEY",
    "ROUTER_LLM_MODEL",
    "WORKER_MODULES",
}
"""Settings that take any text by itself: whether it is right shows elsewhere, and has its tests there."""

FILES = {
    "CU_STATE_DIR",
    "CU_PROJECT_KEYS_FILE",
    *(f"GRPC_TLS_{each}" for each in ("CA_CERT", "SERVER_CERT", "SERVER_KEY", "CLIENT_CERT", "CLIENT_KEY")),
}
"""Settings that name a file or folder: `test_files.py`, and `tests/tls/test_settings.py`."""


def settings() -> Iterator[tuple[type[SharedConfig], str, FieldInfo]]:
    """Every setting there is, with its class and field, once."""
    for kind in CLASSES:
        for name, info in kind.model_fields.items():
            if kind is SharedConfig or name not in SharedConfig.model_fields:
                yield kind, name, info


def generated(name: str, info: FieldInfo) -> Iterator[Case]:
    """Values that the type of a setting, its bounds, its values or its pattern make wrong."""
    kinds: list[Any] = [info.annotation, *typing.get_args(info.annotation)]
    if bool in kinds:
        yield "perhaps", "'perhaps' is not true or false; it must be true or false"
    elif typing.get_origin(info.annotation) is typing.Literal or _is_enumeration(info.annotation):
        yield "nonsense", f"'nonsense' is none of its values; it must be {allowed(info)}"
    elif int in kinds or float in kinds:
        yield from _numbers(name, info, whole=int in kinds)
    elif grammar_of(info):
        yield "no\tname", f"'no\\tname' is not {grammar_of(info).noun}; it must match {allowed(info)}"  # type: ignore[union-attr]
        yield "x" * 300, f"'{'x' * 76}… is not "
    for item in info.metadata:
        if isinstance(item, annotated_types.MaxLen):
            yield "x" * (item.max_length + 1), f"'{'x' * 76}… is too long; it must be {allowed(info)}"


def _numbers(name: str, info: FieldInfo, *, whole: bool) -> Iterator[Case]:
    fits = f"it must be {allowed(info)}"
    yield "many", f"'many' is not a {'whole ' if whole else ''}number; {fits}"
    yield "nan", f"'nan' is not a {'whole' if whole else 'finite'} number; {fits}"
    if whole:
        yield "1.5", f"'1.5' is not a whole number; {fits}"
    else:
        yield "inf", f"'inf' is not a finite number; {fits}"
    for wrong in _beyond(info):
        yield wrong, f"'{wrong}' is out of range; {fits}"
    if units_of(name):
        yield "5parsecs", "'5parsecs' has a unit that is not known here; write a plain number of "


def _beyond(info: FieldInfo) -> Iterator[str]:
    """Numbers just out of each bound of a setting."""
    for item in info.metadata:
        match item:
            case annotated_types.Gt(gt=bound):
                yield str(bound)
            case annotated_types.Ge(ge=bound):
                yield str(int(bound) - 1)
            case annotated_types.Lt(lt=bound):
                yield str(bound)
            case annotated_types.Le(le=bound):
                yield str(int(typing.cast(float, bound)) + 1)


def _is_enumeration(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, enum.Enum)


def names_a_path(info: FieldInfo) -> bool:
    """Whether a setting is a path."""
    return Path in (info.annotation, *typing.get_args(info.annotation))
