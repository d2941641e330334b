"""TLS: the rules between its settings, and what the files that they name must hold."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from meshkit.config.certificates import (
    Certificate,
    Material,
    Use,
    as_pem,
    faults,
    fits,
    parse_certificates,
    parse_key,
    read_file,
)
from meshkit.config.problems import Problem, Wrong

if TYPE_CHECKING:
    from cryptography import x509

    from meshkit.config.fields import SharedFields

ENABLED = "GRPC_TLS_ENABLED"
AUTHORITY = "GRPC_TLS_CA_CERT"
REQUIRE_CLIENT = "GRPC_TLS_REQUIRE_CLIENT_AUTH"
PLACE = "{service}"
"""What stands in a path for the name of the service, so that several can share their settings."""

_MAKE = "for a mesh of your own make them with `meshkit certs dev`"


def settings_of(use: Use) -> tuple[str, str]:
    """Names of the settings of a certificate and of its key."""
    return f"GRPC_TLS_{use.name}_CERT", f"GRPC_TLS_{use.name}_KEY"


def files_of(config: SharedFields, use: Use, service: str = "") -> tuple[Path | None, Path | None]:
    """The files of a certificate and of its key, with the service's name for `{service}` in their paths.

    Args:
        config: Settings that name the files.
        use: Of the server or of the client.
        service: Name of the service; empty leaves paths as they are.
    """
    server = use is Use.SERVER
    certificate = config.grpc_tls_server_cert if server else config.grpc_tls_client_cert
    key = config.grpc_tls_server_key if server else config.grpc_tls_client_key
    return _named(certificate, service), _named(key, service)


def check_settings(config: SharedFields) -> Iterator[Problem]:
    """What is wrong between the settings, whatever the files hold."""
    if not config.grpc_tls_enabled:
        if config.grpc_tls_require_client_auth:
            what = f"callers are to show certificates, and TLS is off ({ENABLED})"
            yield Problem(REQUIRE_CLIENT, what, f"set {ENABLED}=true, or unset this")
        return
    if config.grpc_tls_ca_cert is None:
        what = "TLS is on, and nothing says which authority signs the certificates of the mesh"
        yield Problem(AUTHORITY, what, f"set it to the authority's PEM file; {_MAKE}")
    for use in Use:
        (certificate, key), (cert_setting, key_setting) = files_of(config, use), settings_of(use)
        if certificate is not None and key is None:
            what = f"{cert_setting} is set, and the certificate's key is not"
            yield Problem(key_setting, what, "set both, to the same file where it holds both")
        if key is not None and certificate is None:
            what = f"{key_setting} is set, and the key's certificate is not"
            yield Problem(cert_setting, what, "set both, to the same file where it holds both")
    if config.grpc_tls_require_client_auth and files_of(config, Use.CLIENT) == (None, None):
        what = f"services ask their callers for certificates ({REQUIRE_CLIENT}), and this program has none to show"
        mend = "set it and GRPC_TLS_CLIENT_KEY; a service may name its GRPC_TLS_SERVER_CERT and _KEY here too"
        yield Problem(settings_of(Use.CLIENT)[0], what, mend)


def check_files(config: SharedFields, *, now: float | None = None) -> list[Problem]:
    """What is wrong with the files, as far as that does not depend on which service reads them."""
    if not config.grpc_tls_enabled:
        return []
    _, problems = read_authorities(config)
    service = config.service_name
    for use in Use:
        paths = files_of(config, use, service)
        if paths != (None, None) and not any(PLACE in str(path) for path in paths):
            problems += _new(read_material(config, use, service, now=now)[1], problems)
    return problems


def check_serving(config: SharedFields, service: str, *, now: float | None = None) -> list[Problem]:
    """What keeps a service from serving with TLS as it is set up: all that is wrong with its certificates.

    Args:
        config: Its settings.
        service: Its name.
        now: Unix time in seconds; the present by default.
    """
    if not config.grpc_tls_enabled:
        return []
    problems: list[Problem] = []
    if files_of(config, Use.SERVER) == (None, None):
        what = f"TLS is on, and {service} has no certificate to show to its callers"
        mend = f"set it and GRPC_TLS_SERVER_KEY; issue one with `meshkit certs issue {service}`"
        problems.append(Problem(settings_of(Use.SERVER)[0], what, mend))
    for use in Use:
        if files_of(config, use) != (None, None):
            problems += _new(read_material(config, use, service, now=now)[1], problems)
    return problems


def read_material(
    config: SharedFields, use: Use, service: str, *, script: str = "", now: float | None = None
) -> tuple[Material | None, list[Problem]]:
    """Reads the files of one side: what they hold, or all that is wrong with them.

    Args:
        config: Settings that name the files.
        use: As a server, or as a client (which may have no certificate).
        service: Whose certificate it must be; empty: anybody's within the namespace.
        script: Name that stands in paths for a program that is no service.
        now: Unix time in seconds; the present by default.
    """
    authorities, problems = read_authorities(config)
    certificate_path, key_path = files_of(config, use, service or script)
    if certificate_path is None or key_path is None:
        return (None if problems else Material(authorities.pem)), problems
    certificate_setting, key_setting = settings_of(use)
    own = _certificates(certificate_setting, certificate_path, problems)
    key = _key(key_setting, key_path, own, certificate_path, problems)
    if own.chain:
        at = time.time() if now is None else now
        found = faults(
            own.chain, authorities.chain, use=use, service=service, namespace=config.namespace, now=at
        )
        problems += [
            Problem(certificate_setting, f"{certificate_path} {wrong.what}", wrong.mend) for wrong in found
        ]
    if problems:
        return None, problems
    return Material(authorities.pem, as_pem(own.chain), key, Certificate.of(own.chain[0])), []


class Certificates(NamedTuple):
    """The certificates of a file: as they stand there, and parsed. None where it could not be read."""

    pem: bytes = b""
    chain: Sequence[x509.Certificate] = ()


def read_authorities(config: SharedFields) -> tuple[Certificates, list[Problem]]:
    """Reads the authorities, or says what is wrong with their file."""
    problems: list[Problem] = []
    path = config.grpc_tls_ca_cert
    return (Certificates() if path is None else _certificates(AUTHORITY, path, problems)), problems


def _certificates(setting: str, path: Path, problems: list[Problem]) -> Certificates:
    try:
        pem = read_file(path)
        return Certificates(pem, parse_certificates(pem, path))
    except Wrong as wrong:
        problems.append(Problem(setting, wrong.what, wrong.mend))
        return Certificates()


def _key(setting: str, path: Path, own: Certificates, of: Path, problems: list[Problem]) -> bytes:
    try:
        pem = read_file(path, private=True)
        if path == of and own.pem:
            pem = own.pem  # as it was read before: the file may have been replaced in between
        key = parse_key(pem, path)
        if own.chain and not fits(key, own.chain[0]):
            raise Wrong(f"the key in {path} is not that of the certificate in {of}", "name a pair")
        return pem
    except Wrong as wrong:
        problems.append(Problem(setting, wrong.what, wrong.mend))
        return b""


def _named(path: Path | None, service: str) -> Path | None:
    return Path(str(path).replace(PLACE, service)) if path is not None and service else path


def _new(found: list[Problem], known: list[Problem]) -> list[Problem]:
    return [problem for problem in found if problem not in known]
