"""A folder with an authority of the mesh's own and the certificates that it has signed.

`ca.pem` is the authority, `ca.key` its private key, `<service>.pem` a service's certificate with its key: one file, so
that replacing it is one step, and no program ever finds a certificate beside another one's key.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from meshkit.config import Wrong
from meshkit.config.certificates import Certificate, dns_name, parse_certificates, parse_key, read_file
from meshkit.config.tls import PLACE
from meshkit.security.certificates.authority import AUTHORITY_DAYS, CLOCKS_S, DAYS, Authority

RENEWED_SHARE = 1 / 3
"""A certificate is renewed when this share of its lifetime is left: before anybody warns of it."""

AUTHORITY = "ca"


class CertificateFolder:
    """The certificates of a mesh that is its own authority.

    Args:
        path: The folder; made, for its owner only, when something is put into it.
        namespace: Name of the mesh.
        clock: Unix time in seconds.
    """

    def __init__(self, path: Path, namespace: str, *, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self.namespace = namespace
        self._clock = clock

    @property
    def authority_file(self) -> Path:
        """The authority's certificate, which everybody trusts."""
        return self.path / f"{AUTHORITY}.pem"

    @property
    def authority_key_file(self) -> Path:
        """The authority's private key."""
        return self.path / f"{AUTHORITY}.key"

    def file(self, service: str) -> Path:
        """The certificate and key of a service."""
        return self.path / f"{service}.pem"

    def services(self) -> list[str]:
        """Those that have a certificate here."""
        return sorted(path.stem for path in self.path.glob("*.pem") if path.stem != AUTHORITY)

    def authority(self) -> Authority:
        """The authority.

        Raises:
            Wrong: There is none, or it cannot be used.
        """
        if not self.authority_file.exists():
            raise Wrong(f"there is no authority in {self.path}", "make one with `meshkit certs dev`")
        certificate = parse_certificates(read_file(self.authority_file), self.authority_file)[0]
        key = parse_key(read_file(self.authority_key_file, private=True), self.authority_key_file)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise Wrong(
                f"{self.authority_key_file} is not the key of {self.authority_file}",
                "put the right one there",
            )
        if Certificate.of(certificate).not_after <= self._clock():
            raise Wrong(f"the authority in {self.authority_file} has expired", "run `meshkit certs dev`")
        return Authority(certificate, key)

    def ensure(self, services: Iterable[str], *, days: float = DAYS) -> list[str]:
        """Makes the authority where there is none, and what certificates are missing or soon to be renewed.

        Args:
            services: Who needs one.
            days: For how long new ones hold.

        Returns:
            For whom one was made.

        Raises:
            Wrong: The authority cannot be used.
        """
        with self._locked():
            authority = self._ensured_authority()
            due = [service for service in services if self.is_due(service)]
            for service in due:
                self._issue(authority, service, days, _hosts(self._leaf(service), self.namespace))
            return due

    def issue(self, service: str, *, days: float = DAYS, hosts: Sequence[str] = ()) -> Path:
        """Signs a certificate, in the place of what a service has.

        Args:
            service: Its name.
            days: For how long it holds.
            hosts: Further DNS names and IP addresses in it.

        Raises:
            Wrong: There is no authority, or it cannot be used.
        """
        with self._locked():
            return self._issue(self.authority(), service, days, hosts)

    def renew(self, services: Iterable[str]) -> None:
        """Signs certificates anew, with their names and for as long as they held before.

        Raises:
            Wrong: One of them is not there, or the authority cannot be used.
        """
        with self._locked():
            authority = self._ensured_authority(make=False)
            for service in services:
                leaf = self._leaf(service)
                if leaf is None:
                    raise Wrong(
                        f"{service} has no certificate in {self.path}",
                        f"make one with `meshkit certs issue {service}`",
                    )
                days = (leaf.not_after - leaf.not_before - CLOCKS_S) / 86400
                self._issue(authority, service, days, _hosts(leaf, self.namespace))

    def is_due(self, service: str) -> bool:
        """Whether a service has no certificate that can be used, or should get another one."""
        leaf = self._leaf(service)
        return leaf is None or _left(leaf, self._clock()) <= RENEWED_SHARE

    def _ensured_authority(self, *, make: bool = True) -> Authority:
        """The authority; made where there is none, and with a new certificate for its key where it is to expire."""
        if make and not self.authority_file.exists():
            return self._keep(Authority.make(self.namespace, now=self._clock()))
        authority = self.authority()
        if _left(Certificate.of(authority.certificate), self._clock()) > RENEWED_SHARE:
            return authority
        return self._keep(authority.renewed(now=self._clock(), days=AUTHORITY_DAYS))

    def _keep(self, authority: Authority) -> Authority:
        _write(self.authority_key_file, authority.key_pem, 0o600)
        _write(self.authority_file, authority.pem, 0o644)
        return authority

    def _issue(self, authority: Authority, service: str, days: float, hosts: Sequence[str]) -> Path:
        issued = authority.issue(service, self.namespace, now=self._clock(), days=days, hosts=hosts)
        file = self.file(service)
        _write(file, issued.certificate + issued.key, 0o600)
        return file

    def _leaf(self, service: str) -> Certificate | None:
        file = self.file(service)
        try:
            return Certificate.of(parse_certificates(read_file(file), file)[0])
        except Wrong:
            return None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Nobody else changes the folder meanwhile."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def settings_of(folder: CertificateFolder) -> dict[str, Any]:
    """Settings by field name with which any program uses the certificates of a folder, with mTLS."""
    own = folder.file(PLACE)
    return {
        "grpc_tls_enabled": True,
        "grpc_tls_ca_cert": folder.authority_file,
        "grpc_tls_server_cert": own,
        "grpc_tls_server_key": own,
        "grpc_tls_client_cert": own,
        "grpc_tls_client_key": own,
        "grpc_tls_require_client_auth": True,
    }


def _left(certificate: Certificate, now: float) -> float:
    """The share of its lifetime that is left."""
    return (certificate.not_after - now) / (certificate.not_after - certificate.not_before)


def _hosts(leaf: Certificate | None, namespace: str) -> list[str]:
    """The names in a certificate beyond those that every one has."""
    if leaf is None:
        return []
    own = {dns_name(uri.rpartition("/")[2], namespace) for uri in leaf.uris}
    return [*(name for name in leaf.dns if name not in own), *leaf.addresses]


def _write(path: Path, content: bytes, mode: int) -> None:
    """Puts a file in its place in one step; a key is never readable by others, also not for an instant."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
