"""Certificates as a test needs them: an authority of its own, and what it has signed."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LOOPBACK = ipaddress.ip_address("127.0.0.1")


@dataclass(frozen=True)
class Certificates:
    """An authority's certificate, and a server's and a client's that it has signed; PEM files.

    Attributes:
        ca: The authority.
        server: For `localhost` and 127.0.0.1, with its key in the same file.
        client: Of a client, with its key in the same file.
    """

    ca: Path
    server: Path
    client: Path

    @classmethod
    def make(cls, folder: Path) -> Certificates:
        """Makes them in a folder, which is made if missing."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = cls(folder / "ca.pem", folder / "server.pem", folder / "client.pem")
        key = ec.generate_private_key(ec.SECP256R1())
        authority = _certificate("test authority", key, "test authority", key, ca=True)
        made.ca.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
        for path, name in ((made.server, "localhost"), (made.client, "client")):
            own = ec.generate_private_key(ec.SECP256R1())
            signed = _certificate(name, own, "test authority", key, ca=False)
            path.touch(mode=0o600)
            path.write_bytes(signed.public_bytes(serialization.Encoding.PEM) + _pem(own))
        return made


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: str, signer: ec.EllipticCurvePrivateKey, *, ca: bool
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    for extension, critical in _for_ca() if ca else _for_leaf(name):
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(signer, hashes.SHA256())


def _for_ca() -> Sequence[tuple[x509.ExtensionType, bool]]:
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    return [(usage, True)]


def _for_leaf(name: str) -> Sequence[tuple[x509.ExtensionType, bool]]:
    names = [x509.DNSName(name), x509.IPAddress(LOOPBACK)]
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return [(x509.SubjectAlternativeName(names), False), (x509.ExtendedKeyUsage(purposes), False)]


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
