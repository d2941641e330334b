"""An authority of the mesh's own: it signs certificates that name one service each.

Keys are on the curve P-256: small, fast, and known to every TLS library. An orchestrator's own issuer, or a company's,
does as well: what counts is the names in the certificates.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshkit.config.certificates import dns_name, spiffe_id

AUTHORITY_DAYS = 365.0
"""Days that an authority holds."""

DAYS = 7.0
"""Days that a certificate holds where nobody says otherwise."""

CLOCKS_S = 300
"""Seconds before its making from which a certificate holds: clocks differ."""

_MAX_COMMON_NAME = 64


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its private key, as PEM."""

    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        return "Issued(…)"  # its key is a secret


class Authority:
    """Signs certificates.

    Args:
        certificate: Its own certificate.
        key: Its private key.
    """

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate = certificate
        self._key = key

    @classmethod
    def make(cls, namespace: str, *, now: float, days: float = AUTHORITY_DAYS) -> Authority:
        """Makes an authority for a mesh.

        Args:
            namespace: Name of the mesh.
            now: Unix time in seconds.
            days: For how long it holds.
        """
        # Each authority has a name of its own: what one has signed is then not tried with another's key.
        name = _name(f"{namespace[:40]} mesh {secrets.token_hex(4)}")
        return cls._signed(name, ec.generate_private_key(ec.SECP256R1()), now, days)

    def renewed(self, *, now: float, days: float = AUTHORITY_DAYS) -> Authority:
        """The same authority, its name and its key, with a certificate that holds for longer.

        What it has signed is still its own, for those who know its old certificate and for those who know the new one.
        """
        return self._signed(self.certificate.subject, self._key, now, days)

    @classmethod
    def _signed(cls, name: x509.Name, key: ec.EllipticCurvePrivateKey, now: float, days: float) -> Authority:
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = (
            _builder(name, name, key, now, days)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
        )
        return cls(builder.sign(key, hashes.SHA256()), key)

    @property
    def pem(self) -> bytes:
        """Its certificate."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """Its private key: whoever has it can be any service of the mesh."""
        return _key_pem(self._key)

    def issue(
        self,
        service: str,
        namespace: str,
        *,
        now: float,
        days: float = DAYS,
        hosts: Sequence[str] = (),
    ) -> Issued:
        """Makes a key, and a certificate for it.

        It never holds longer than the authority.

        Args:
            service: Name of the service.
            namespace: Name of the mesh.
            now: Unix time in seconds.
            days: For how long it holds.
            hosts: Further DNS names and IP addresses in it.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        names = [
            x509.DNSName(dns_name(service, namespace)),
            x509.UniformResourceIdentifier(spiffe_id(service, namespace)),
            *map(_alternative, hosts),
        ]
        last = self.certificate.not_valid_after_utc.timestamp()
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        subject = _name(dns_name(service, namespace)[:_MAX_COMMON_NAME])
        builder = (
            _builder(subject, self.certificate.subject, key, now, min(days, (last - now) / 86400))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(purposes, critical=False)
            .add_extension(issuer, critical=False)
        )
        signed = builder.sign(self._key, hashes.SHA256())
        return Issued(signed.public_bytes(Encoding.PEM), _key_pem(key))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: float, days: float
) -> x509.CertificateBuilder:
    moment = datetime.fromtimestamp(now, UTC).replace(microsecond=0)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - timedelta(seconds=CLOCKS_S))
        .not_valid_after(moment + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
