"""The doctor's look at certificates: names, authority, key, and how long they last."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from meshkit.cli.doctor.findings import Case, Finding, fault, good, note, warning
from meshkit.cli.output import shown

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography import x509

    from meshkit.config import SharedConfig

RENEW = "`meshkit certs renew` does that for those of its own authority"


async def look_at_certificates(case: Case) -> list[Finding]:
    """Reads the files of each service. They are read again when they are replaced: nothing needs a restart."""
    encrypted = [
        (config, name)
        for config, name in ((each.config, each.name) for each in case.services)
        if config.grpc_tls_enabled
    ] or ([(case.config, "")] if case.config.grpc_tls_enabled and not case.services else [])
    if not encrypted:
        return [note("TLS is off, so there are none")]
    return list(dict.fromkeys(finding for each in encrypted for finding in _of(*each)))


def _of(config: SharedConfig, service: str) -> Iterator[Finding]:
    from meshkit.config.certificates import Use
    from meshkit.config.tls import PLACE, files_of, read_authorities
    from meshkit.security.certificates import ANYBODY

    authorities, problems = read_authorities(config)
    for problem in problems:
        yield fault(f"{problem.setting}: {problem.what}", problem.mend)
    files = [config.grpc_tls_ca_cert]
    files += [files_of(config, use, service or ANYBODY)[0] for use in Use]
    for file in dict.fromkeys(each for each in files if each is not None and PLACE not in str(each)):
        yield from _file(file, authorities.chain, config)


def _file(file: Path, authorities: object, config: SharedConfig) -> Iterator[Finding]:
    from meshkit.security.certificates.inspection import inspect

    chain: list[x509.Certificate] = list(authorities)  # type: ignore[call-overload]
    now = time.time()
    found = inspect(file, chain, config.namespace, now=now)
    left = found.days_left(now)
    for problem in found.problems:
        if problem.startswith("expires soon"):
            yield warning(f"{shown(file)} expires in {left:.1f} days", f"replace it; {RENEW}")
        else:
            what, _, mend = problem.partition("; ")
            yield fault(f"{shown(file)}: {what}", mend or "replace it")
    if not found.problems and found.certificate is not None:
        names = f"authority {found.certificate.subject}" if found.authority else found.certificate.names
        signed = "" if found.authority else f", signed by {found.certificate.issuer}"
        yield good(f"{shown(file)}: {names}{signed}; {left:.0f} days left")
