"""What an authority of the mesh stands on, such as Shield: keys, what they are granted, and tokens bound to a key.

A service that is one overrides `CUService.key_ring`, so that the projects which it knows can call it, and takes from
there what is revoked.
"""

from meshkit.security.bound import ISSUER, MAX_ACTORS, Actor, bound_token, too_deep
from meshkit.security.keys import (
    KID,
    PROJECT,
    Grants,
    KeyRing,
    KeyRow,
    KeyStatus,
    ServiceKeys,
    full_grants,
)
from meshkit.security.revocations import Revocations
from meshkit.security.rights import is_permission, is_tenant, meet
from meshkit.security.tokens import MAX_TOKEN, TokenVerifier, Verified

__all__ = [
    "ISSUER",
    "KID",
    "MAX_ACTORS",
    "MAX_TOKEN",
    "PROJECT",
    "Actor",
    "Grants",
    "KeyRing",
    "KeyRow",
    "KeyStatus",
    "Revocations",
    "ServiceKeys",
    "TokenVerifier",
    "Verified",
    "bound_token",
    "full_grants",
    "is_permission",
    "is_tenant",
    "meet",
    "too_deep",
]
