"""`redis://`: a registry that any number of machines share. `scripts.py` tells its layout."""

from meshkit.discovery.redis.registry import RedisRegistry

__all__ = ["RedisRegistry"]
