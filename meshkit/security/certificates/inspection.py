"""What is to be said of a certificate file: its names, its times, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from meshkit.config import Wrong
from meshkit.config.certificates import (
    Certificate,
    Use,
    faults,
    fits,
    moment,
    parse_certificates,
    parse_key,
    read_file,
    spiffe_id,
)

if TYPE_CHECKING:
    from cryptography import x509


@dataclass(frozen=True, slots=True)
class Inspected:
    """A certificate file.

    Attributes:
        file: The file.
        certificate: What it holds; None where it holds none that can be read.
        authority: Whether that signs others.
        problems: What is wrong with it, each with its mend; that it expires soon is among it.
    """

    file: Path
    certificate: Certificate | None
    authority: bool
    problems: tuple[str, ...]

    def days_left(self, now: float) -> float | None:
        """Days until it expires, below 0 afterwards; None where there is no certificate."""
        return None if self.certificate is None else (self.certificate.not_after - now) / 86400


def inspect(file: Path, authorities: Sequence[x509.Certificate], namespace: str, *, now: float) -> Inspected:
    """Looks at a certificate file, at the key too that stands in it.

    Args:
        file: The file.
        authorities: Who may have signed it; none leaves that open.
        namespace: Name of the mesh.
        now: Unix time in seconds.
    """
    try:
        pem = read_file(file)
        chain = parse_certificates(pem, file)
    except Wrong as wrong:
        return Inspected(file, None, False, (str(wrong),))
    leaf, authority = Certificate.of(chain[0]), is_authority(chain[0])
    found = [*_of_key(pem, chain[0], file)]
    if not authority:
        service = next((uri for uri in leaf.uris if uri.startswith(spiffe_id("", namespace))), "")
        name = service.removeprefix(spiffe_id("", namespace))
        found += faults(chain, authorities, use=Use.SERVER, service=name, namespace=namespace, now=now)
    elif now >= leaf.not_after:
        found.append(Wrong(f"expired on {moment(leaf.not_after)}", "make it anew with `meshkit certs dev`"))
    if leaf.warned_from <= now < leaf.not_after:
        found.append(Wrong("expires soon", "replace it; `meshkit certs renew` does for those of its folder"))
    return Inspected(file, leaf, authority, tuple(map(str, found)))


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether a certificate says of itself that it may sign others."""
    from cryptography import x509

    try:
        return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except x509.ExtensionNotFound:
        return False


def _of_key(pem: bytes, certificate: x509.Certificate, file: Path) -> Iterator[Wrong]:
    """What is wrong with the key in the file of a certificate, where there is one."""
    if b"PRIVATE KEY-----" not in pem:
        return
    try:
        read_file(file, private=True)
        if not fits(parse_key(pem, file), certificate):
            yield Wrong("its key is another certificate's", "write the file anew, whole")
    except Wrong as wrong:
        yield wrong
