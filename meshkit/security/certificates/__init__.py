"""Certificates: watched where they are used, made and renewed where the mesh has an authority of its own."""

from meshkit.security.certificates.watch import (
    ANYBODY,
    CertificateFiles,
    client_certificates,
    server_certificates,
)

__all__ = ["ANYBODY", "CertificateFiles", "client_certificates", "server_certificates"]
