"""What certificate files hold, and what is wrong with them, in words for who has to mend it."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from meshkit.config.problems import Wrong

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

MAX_BYTES = 1024 * 1024
"""Size of a certificate or key file at most."""

WARNED_SHARE = 0.25
WARNED_S = 14 * 86400.0
"""A certificate is about to expire when this share of its lifetime is left, or these seconds where that is less."""

_WRITE = stat.S_IWGRP | stat.S_IWOTH


class Use(Enum):
    """What a certificate is shown for; the value names the purpose in it (extended key usage)."""

    SERVER = "serverAuth"
    CLIENT = "clientAuth"


def dns_name(service: str, namespace: str) -> str:
    """The DNS name in the certificate of a service, which its callers ask for."""
    return f"{service}.{namespace}"


def spiffe_id(service: str, namespace: str) -> str:
    """The URI in the certificate of a service, by which those that it calls know it."""
    return f"spiffe://{namespace}/{service}"


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says.

    Attributes:
        subject: Whom it was made out to, for people; only the names below count.
        issuer: Who signed it, for people.
        dns: DNS names.
        uris: URIs, the SPIFFE id among them.
        addresses: IP addresses.
        serial: Serial number in hex digits.
        not_before: Unix time in seconds from which it holds.
        not_after: Unix time in seconds until which it holds.
    """

    subject: str
    issuer: str
    dns: tuple[str, ...]
    uris: tuple[str, ...]
    addresses: tuple[str, ...]
    serial: str
    not_before: float
    not_after: float

    @classmethod
    def of(cls, certificate: x509.Certificate) -> Certificate:
        """What a parsed certificate says."""
        from cryptography import x509

        names = _alternatives(certificate)
        return cls(
            subject=certificate.subject.rfc4514_string(),
            issuer=certificate.issuer.rfc4514_string(),
            dns=tuple(names.get_values_for_type(x509.DNSName)),
            uris=tuple(names.get_values_for_type(x509.UniformResourceIdentifier)),
            addresses=tuple(map(str, names.get_values_for_type(x509.IPAddress))),
            serial=f"{certificate.serial_number:x}",
            not_before=certificate.not_valid_before_utc.timestamp(),
            not_after=certificate.not_valid_after_utc.timestamp(),
        )

    @property
    def names(self) -> str:
        """All its names, for people."""
        return ", ".join((*self.dns, *self.uris, *self.addresses)) or "no name at all"

    @property
    def warned_from(self) -> float:
        """Unix time in seconds from which it is about to expire: a quarter of its life before, at most 14 days."""
        return self.not_after - min(WARNED_SHARE * (self.not_after - self.not_before), WARNED_S)


@dataclass(frozen=True, slots=True)
class Material:
    """What one side of a TLS connection needs, as PEM.

    Attributes:
        authorities: Certificates of those who may sign the other side's.
        certificate: The own certificate, and those between it and the authority; empty where there is none.
        key: Its private key. Hidden in the repr.
        leaf: What the own certificate says; None where there is none.
    """

    authorities: bytes = field(repr=False)
    certificate: bytes = field(default=b"", repr=False)
    key: bytes = field(default=b"", repr=False)
    leaf: Certificate | None = None


def read_file(path: Path, *, private: bool = False) -> bytes:
    """The contents of a certificate or key file.

    Args:
        path: The file.
        private: It holds a key, so others may not read it. Its group may, as where an orchestrator mounts it.

    Raises:
        Wrong: It cannot be read, or not be trusted.
    """
    try:
        with path.open("rb") as file:
            mode = path.stat().st_mode
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise Wrong(f"there is no file {path}", "mend the path, or put the file there") from None
    except OSError as error:
        raise Wrong(f"{path} cannot be read ({error.strerror})", "let this program's user read it") from None
    if len(content) > MAX_BYTES:
        raise Wrong(f"{path} is above {MAX_BYTES} bytes", "name the right file")
    if private and (wrong := mode & (_WRITE | stat.S_IROTH)):
        done = "written" if wrong & _WRITE else "read"
        whom = "its group" if not wrong & stat.S_IRWXO else "everybody"
        mend = "chmod 600 it (a volume of Kubernetes: defaultMode: 0440)"
        raise Wrong(f"{path} holds a key, and can be {done} by {whom} (mode {stat.S_IMODE(mode):04o})", mend)
    return content


def parse_certificates(pem: bytes, path: Path) -> list[x509.Certificate]:
    """The certificates of a file, in its order.

    Raises:
        Wrong: It holds none, or a broken one.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    if b"-----BEGIN CERTIFICATE-----" not in pem:
        raise Wrong(f"{path} holds no certificate", "name a file with -----BEGIN CERTIFICATE----- in it")
    try:
        chain = x509.load_pem_x509_certificates(pem)
        Certificate.of(chain[0])  # parts are parsed as they are asked for: what is broken is to show here
        chain[0].public_key()
    except UnsupportedAlgorithm as error:
        raise Wrong(
            f"{path} holds a certificate that cannot be used ({error})", "use EC or RSA keys"
        ) from None
    except (ValueError, x509.InvalidVersion):
        raise Wrong(f"{path} holds a broken certificate", "write the file anew, whole") from None
    return chain


def parse_key(pem: bytes, path: Path) -> PrivateKeyTypes:
    """The private key in a file.

    Raises:
        Wrong: It holds none that can be used; the message quotes nothing of it.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        return load_pem_private_key(pem, password=None)
    except TypeError:
        what, mend = "holds a key behind a passphrase", "write it without one, and chmod 600 the file"
    except (ValueError, UnsupportedAlgorithm):
        what, mend = "holds no private key that can be read", "name a PEM file with a private key in it"
    raise Wrong(f"{path} {what}", mend)


def as_pem(chain: Sequence[x509.Certificate]) -> bytes:
    """The certificates, and nothing else that stood in their file."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain)


def fits(key: PrivateKeyTypes, certificate: x509.Certificate) -> bool:
    """Whether the key is the certificate's."""
    return key.public_key() == certificate.public_key()


def faults(
    chain: Sequence[x509.Certificate],
    authorities: Sequence[x509.Certificate],
    *,
    use: Use,
    service: str,
    namespace: str,
    now: float,
) -> Iterator[Wrong]:
    """What is wrong with a certificate, other than its key; each with its mend.

    Args:
        chain: The certificate, and those between it and the authority.
        authorities: Who may have signed it.
        use: What it is shown for.
        service: Whose it must be; empty: anybody's within the namespace.
        namespace: Name of the mesh.
        now: Unix time in seconds.
    """
    leaf = Certificate.of(chain[0])
    named = service or next(iter(leaf.uris), "").removeprefix(spiffe_id("", namespace)) or "NAME"
    issue = f"issue one with `meshkit certs issue {named if '/' not in named else 'NAME'}`"
    if now >= leaf.not_after:
        yield Wrong(f"expired on {moment(leaf.not_after)}", issue)
    elif now < leaf.not_before:
        yield Wrong(
            f"does not hold before {moment(leaf.not_before)}", "set this machine's clock, or wait until then"
        )
    if lacking := _lacking(leaf, use, service, namespace):
        yield Wrong(
            f"is not for {service or 'a program of the mesh'}: {lacking} (it has {leaf.names})", issue
        )
    if not _for_use(chain[0], use):
        yield Wrong(f"is not meant to be shown by a {use.name.lower()} ({use.value} is not in it)", issue)
    if authorities and not _signed(chain, authorities):
        yield Wrong(
            f"was signed by none of the authorities in GRPC_TLS_CA_CERT, but by {leaf.issuer}",
            f"name the authority that signed it, or {issue}",
        )


def moment(seconds: float) -> str:
    """A time for people, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _lacking(leaf: Certificate, use: Use, service: str, namespace: str) -> str:
    """What name is missing; empty where none is."""
    if use is Use.SERVER and service and dns_name(service, namespace) not in leaf.dns:
        return f"it lacks the DNS name {dns_name(service, namespace)}"
    if len(leaf.uris) > 1:
        return "it has several URIs, of which gRPC takes none for who it is"
    wanted = spiffe_id(service or "NAME", namespace)
    if service:
        return "" if leaf.uris == (wanted,) else f"it lacks the URI {wanted}"
    here = any(uri.startswith(spiffe_id("", namespace)) for uri in leaf.uris)
    return "" if here else f"it lacks a URI {wanted}"


def _for_use(certificate: x509.Certificate, use: Use) -> bool:
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    try:
        purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    wanted = ExtendedKeyUsageOID.SERVER_AUTH if use is Use.SERVER else ExtendedKeyUsageOID.CLIENT_AUTH
    return wanted in purposes


def _signed(chain: Sequence[x509.Certificate], authorities: Sequence[x509.Certificate]) -> bool:
    """Whether each certificate is signed by the next, and one of them by an authority."""
    for place, certificate in enumerate(chain):
        if any(certificate == authority or _issued(certificate, authority) for authority in authorities):
            return True
        if place + 1 == len(chain) or not _issued(certificate, chain[place + 1]):
            return False
    return False


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _alternatives(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    from cryptography import x509

    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return x509.SubjectAlternativeName([])
