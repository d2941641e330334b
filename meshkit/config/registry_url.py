"""The URL of a registry: which there are, and what each looks like."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from meshkit.config.grammar import SERVICE_NAME, check_address
from meshkit.config.problems import Wrong
from meshkit.config.redis_url import REDIS_SCHEMES, RedisUrl

_MEND = (
    "use redis://host, dns://?brain=host:port&router=host:port, static://brain=host:port,host:port, "
    "file:///folder or memory://, or unset it"
)
_OF_ONE_MACHINE = frozenset({"file", "memory"})


def check_registry_url(value: str) -> str:
    """Returns the URL of a registry, or the empty string; raises `Wrong` for anything else, without credentials."""
    if not value:
        return value
    scheme, separator, rest = value.partition("://")
    scheme = scheme.lower()
    checks = {"memory": _check_memory, "static": _check_static, "dns": _check_dns, "file": _check_folder}
    if not separator:
        raise Wrong("it has no scheme", _MEND)
    if scheme in REDIS_SCHEMES:
        RedisUrl.parse(value)
    elif scheme in checks:
        checks[scheme](rest)
    else:
        raise Wrong(f"there is no registry of the scheme {scheme[:20]!r}", _MEND)
    return f"{scheme}://{rest}"


def is_shared(url: str) -> bool:
    """Whether machines can share the registry of a checked URL."""
    return url.partition("://")[0] not in _OF_ONE_MACHINE


def _check_memory(rest: str) -> None:
    if rest:
        raise Wrong("memory:// has nothing after it", "write memory://")


def _check_folder(rest: str) -> None:
    if not rest.startswith("/"):
        raise Wrong(
            "the folder of a file registry is not absolute", "write file:///folder, with three strokes"
        )


def _check_static(rest: str) -> None:
    for part in rest.strip(";").split(";"):
        service, _, addresses = part.partition("=")
        SERVICE_NAME.check(service.strip())
        for address in addresses.split(","):
            check_address(address.strip())


def _check_dns(rest: str) -> None:
    services = []
    for part in rest.removeprefix("?").split("&"):
        service, _, address = part.partition("=")
        services.append(SERVICE_NAME.check(service))
        check_address(address)
    if not rest.startswith("?") or len(set(services)) < len(services):
        raise Wrong("it is not dns://?service=host:port, each service once", _MEND)


RegistryUrl = Annotated[str, AfterValidator(check_registry_url)]
