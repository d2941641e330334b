"""Certificates as tests need them, right ones and wrong ones; made without the code under test."""

from __future__ import annotations

import datetime
import ipaddress
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LOOPBACK = "127.0.0.1"
BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
_PEM = serialization.Encoding.PEM
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Signed:
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes

    @property
    def both(self) -> bytes:
        return self.certificate + self.key


@dataclass
class Signer:
    """An authority, and what it signs."""

    name: str = field(default_factory=lambda: f"authority {next(_numbers)}")
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def pem(self) -> bytes:
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        return self._sign(self.name, self.key, 365, -1, [(usage, True)], ca=True).public_bytes(_PEM)

    def service(self, name: str, namespace: str = "contextunity", **facts: Any) -> Signed:
        """What a service of the mesh shows."""
        uris = facts.pop("uris", (f"spiffe://{namespace}/{name}",))
        return self.sign(dns=facts.pop("dns", (f"{name}.{namespace}",)), uris=uris, **facts)

    def sign(
        self,
        *,
        dns: Sequence[str] = (),
        uris: Sequence[str] = (),
        addresses: Sequence[str] = (),
        until: float = 1.0,
        since: float = -1.0,
        purposes: Sequence[x509.ObjectIdentifier] = BOTH,
    ) -> Signed:
        """Signs a certificate for a new key.

        Args:
            dns: DNS names in it.
            uris: URIs in it.
            addresses: IP addresses in it.
            until: Days from now until when it holds.
            since: Days from now from which it does.
            purposes: What it may be shown for; none where it says nothing of that.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [
            *map(x509.DNSName, dns),
            *map(x509.UniformResourceIdentifier, uris),
            *(x509.IPAddress(ipaddress.ip_address(address)) for address in addresses),
        ]
        extensions: list[tuple[x509.ExtensionType, bool]] = []
        if names:
            extensions.append((x509.SubjectAlternativeName(names), False))
        if purposes:
            extensions.append((x509.ExtendedKeyUsage(purposes), False))
        made = self._sign("a test's", key, until, since, extensions, ca=False)
        return Signed(made.public_bytes(_PEM), pem_of(key))

    def _sign(
        self,
        subject: str,
        key: ec.EllipticCurvePrivateKey,
        until: float,
        since: float,
        extensions: Sequence[tuple[x509.ExtensionType, bool]],
        *,
        ca: bool,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(subject))
            .issuer_name(_name(self.name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days=since))
            .not_valid_after(now + datetime.timedelta(days=until))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(issuer, critical=False)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self.key, hashes.SHA256())


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
        signer = Signer()
        made.ca.write_bytes(signer.pem)
        for path, name in ((made.server, "localhost"), (made.client, "client")):
            write_private(path, signer.sign(dns=(name,), addresses=(LOOPBACK,)).both)
        return made


def write_private(path: Path, content: bytes) -> Path:
    """Writes a file that its owner alone can read."""
    path.touch(mode=0o600)
    path.write_bytes(content)
    return path


def pem_of(key: Any, passphrase: bytes = b"") -> bytes:
    """A private key, as PEM."""
    encryption: Any = serialization.NoEncryption()
    if passphrase:
        encryption = serialization.BestAvailableEncryption(passphrase)
    made: bytes = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, encryption)
    return made


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
