"""The side of Shield's clients: tokens from it, keys of it that verify, and what it revoked."""

from meshkit.security.shield.feed import Feed
from meshkit.security.shield.keys import ShieldRing
from meshkit.security.shield.tokens import ShieldTokens

__all__ = ["Feed", "ShieldRing", "ShieldTokens"]
