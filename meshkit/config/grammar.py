"""The grammars of settings: what a name, a host and an address look like."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator

from meshkit.config.problems import Wrong
from meshkit.config.redaction import quote


class Choice(StrEnum):
    """An enumeration whose values may be written in any case."""

    @classmethod
    def _missing_(cls, value: object) -> Choice | None:
        text = str(value).strip().lower()
        return next((member for member in cls if member.value.lower() == text), None)


class Environment(Choice):
    """Where the mesh runs; `production` switches the production rules on."""

    LOCAL = "local"
    PRODUCTION = "production"


class LogLevel(Choice):
    """The least severe log lines that are written."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"
    CRITICAL = "CRITICAL"


class RequestProof(Choice):
    """Whether calls must carry a proof that the caller holds the key, and that nobody altered them."""

    REQUIRED = "required"
    OPTIONAL = "optional"
    OFF = "off"


class OnFailure(Choice):
    """What is done with calls that something has to be asked about which cannot be asked."""

    OPEN = "open"
    CLOSED = "closed"


class LbPolicy(Choice):
    """How the next endpoint is picked."""

    ROUND_ROBIN = "round_robin"
    LEAST_REQUEST = "least_request"
    PEAK_EWMA = "peak_ewma"
    TENANT_SHARD = "tenant_shard"


@dataclass(frozen=True, slots=True)
class Grammar:
    """A regular expression that a whole value must match, and its name in messages.

    Attributes:
        noun: What the value is, with its article.
        pattern: The expression, as it is shown to people.
        reserved: Values that match and are refused all the same.
    """

    noun: str
    pattern: str
    reserved: tuple[str, ...] = ()

    def check(self, value: str) -> str:
        """Returns the value; raises `Wrong` where it does not match."""
        if not re.fullmatch(self.pattern, value):
            raise Wrong(f"{quote(value)} is not {self.noun}", f"it must match {self.pattern}")
        if value in self.reserved:
            raise Wrong(f"{quote(value)} is reserved", "choose another")
        return value

    def check_or_empty(self, value: str) -> str:
        """Like `check`, with the empty string for a setting that is not set."""
        return self.check(value) if value else value


SERVICE_NAME = Grammar("a service name", "[a-z][a-z0-9-]{0,39}")
VERSION = Grammar("a version", "[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}")
NAMESPACE = Grammar("a namespace", "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
PROJECT = Grammar("a project id", "[a-z0-9][a-z0-9-]{0,39}", reserved=("shield",))
KID = Grammar("a key id", "[A-Za-z0-9_-]{1,32}")
TENANT = Grammar("a tenant", "[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
ZONE = Grammar("a zone", "[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SHARD_KEY = Grammar("a shard key", r"[\x21-\x7e]{1,255}")
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?")


def check_host(value: str) -> str:
    """Returns a host name or IP address; raises `Wrong` for anything else."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        if not _HOST_NAME.fullmatch(value) or value.replace(".", "").isdecimal():
            mend = "give a name or an address, without a port: 127.0.0.1, ::1, brain.internal"
            raise Wrong(f"{quote(value)} is not a host", mend) from None
    return value


def check_address(value: str) -> str:
    """Returns `host:port`, an IPv6 host in brackets; raises `Wrong` for anything else."""
    host, _, port = value.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        if ":" in bare and bare == host:
            raise Wrong("an IPv6 host stands in brackets")
        check_host(bare)
        if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
            raise Wrong("the port is not within 1 to 65535")
    except Wrong:
        raise Wrong(f"{quote(value)} is not host:port", "write it as brain-1:50051 or [::1]:50051") from None
    return value


def check_address_or_empty(value: str) -> str:
    """Like `check_address`, with the empty string for a setting that is not set."""
    return check_address(value) if value else value


def check_addresses_or_empty(value: str) -> str:
    """Like `check_address_or_empty`, for one address or several with commas between them."""
    if not value:
        return value
    found = [check_address(each.strip()) for each in value.split(",")]
    if len(set(found)) < len(found):
        raise Wrong(f"{quote(value)} names an address twice", "write each once, with commas: a:50055,b:50055")
    return ",".join(found)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that is bound to the host."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower() == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


ServiceName = Annotated[str, AfterValidator(SERVICE_NAME.check)]
OptionalServiceName = Annotated[str, AfterValidator(SERVICE_NAME.check_or_empty)]
Version = Annotated[str, AfterValidator(VERSION.check)]
Namespace = Annotated[str, AfterValidator(NAMESPACE.check)]
ProjectId = Annotated[str, AfterValidator(PROJECT.check)]
OptionalTenant = Annotated[str, AfterValidator(TENANT.check_or_empty)]
OptionalZone = Annotated[str, AfterValidator(ZONE.check_or_empty)]
OptionalShardKey = Annotated[str, AfterValidator(SHARD_KEY.check_or_empty)]
Host = Annotated[str, AfterValidator(check_host)]
OptionalAddress = Annotated[str, AfterValidator(check_address_or_empty)]
OptionalAddresses = Annotated[str, AfterValidator(check_addresses_or_empty)]
