"""TLS as connections need it: credentials made of PEM, on both sides, and why a connection does not come about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import grpc

from meshkit.transport.options import Options


class Material(Protocol):
    """What one side of a connection shows, and whom it trusts; PEM."""

    @property
    def authorities(self) -> bytes:
        """Certificates of those who may sign the other side's."""
        ...

    @property
    def certificate(self) -> bytes:
        """The own certificate and those between it and the authority; empty where there is none."""
        ...

    @property
    def key(self) -> bytes:
        """Its private key."""
        ...


class Certificates(Protocol):
    """Material that may be replaced while the program runs."""

    @property
    def material(self) -> Material:
        """What holds now."""
        ...

    def follow(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Calls back whenever there is new material, until what this returns is called, once or more often."""
        ...


@dataclass(frozen=True, slots=True)
class Secured:
    """How a channel is secured.

    Attributes:
        material: What it shows, and whom it trusts.
        name: The DNS name that the other side's certificate must have.
    """

    material: Material
    name: str


def open_channel(address: str, options: Options, secured: Secured | None = None) -> grpc.aio.Channel:
    """Opens a channel.

    Args:
        address: `host:port`.
        options: Its arguments.
        secured: With TLS, so; in plain text where it is None.
    """
    if secured is None:
        return grpc.aio.insecure_channel(address, options=options)
    own = secured.material
    credentials = grpc.ssl_channel_credentials(own.authorities, own.key or None, own.certificate or None)
    pinned = [*options, ("grpc.ssl_target_name_override", secured.name)]
    return grpc.aio.secure_channel(address, credentials, options=pinned)


def server_credentials(certificates: Certificates, *, require_client: bool) -> grpc.ServerCredentials:
    """Credentials of a server, which shows to each new connection what holds then.

    Args:
        certificates: What it shows, and whom it trusts.
        require_client: Whether callers must show a certificate.
    """
    shown = certificates.material

    def renewed() -> (
        grpc.ServerCertificateConfiguration | None
    ):  # gRPC asks at each handshake, from its own thread
        nonlocal shown
        material = certificates.material
        if material is shown:
            return None
        shown = material
        return _configuration(material)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(shown),
        renewed,  # type: ignore[arg-type]  # the stubs do not know that None means "as before"
        require_client_authentication=require_client,
    )


def _configuration(material: Material) -> grpc.ServerCertificateConfiguration:
    pair = (material.key, material.certificate)
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=material.authorities)


_TLS_TROUBLES = (
    ("Hostname Verification Check failed", "the certificate that it shows is not for {name}"),
    ("certificate has expired", "the certificate that it shows has expired"),
    ("certificate is not yet valid", "the certificate that it shows does not hold yet; or a clock is wrong"),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "no authority in GRPC_TLS_CA_CERT has signed the certificate that it shows",
    ),
    ("BAD_SIGNATURE", "no authority in GRPC_TLS_CA_CERT has signed the certificate that it shows"),
    ("WRONG_VERSION_NUMBER", "it does not speak TLS, and GRPC_TLS_ENABLED is on here"),
)
"""What gRPC says of handshakes that failed on this side, and what that means."""

_HUNG_UP = ("Socket closed", "Connection reset", "Broken pipe", "Endpoint closing")


class Trouble(NamedTuple):
    """Why a connection does not come about.

    Attributes:
        text: That, in words for an operator.
        told_at: How often in a row it must be met until it is sure that it stays so unless somebody mends it; 0: never.
            An instance that ends may hang up once.
    """

    text: str
    told_at: int = 0


def trouble_of(details: str, secured: Secured | None) -> Trouble:
    """Why a connection does not come about.

    Args:
        details: What gRPC says of it.
        secured: How the channel is secured.
    """
    if secured is not None:
        for sign, meaning in _TLS_TROUBLES:
            if sign in details:
                return Trouble(meaning.format(name=secured.name), told_at=1)
    _, wrapped, cause = details.partition("last error: ")
    if any(sign in (cause or details) for sign in _HUNG_UP):
        told_at = 0 if secured is None else 2
        return Trouble(f"it closed the connection at once: {_hung_up(secured)}", told_at)
    return Trouble((cause.rpartition(": ")[2] or cause) if wrapped else details)


def _hung_up(secured: Secured | None) -> str:
    if secured is None:
        return "it may speak TLS, and GRPC_TLS_ENABLED is off here"
    if secured.material.certificate:
        return "it may not trust the certificate in GRPC_TLS_CLIENT_CERT"
    return "it may ask for a certificate, and GRPC_TLS_CLIENT_CERT is not set here"
