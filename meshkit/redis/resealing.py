"""Sealing anew what stands in Redis, so that an old key can be taken out of `REDIS_SECRET_KEY`."""

from __future__ import annotations

from dataclasses import dataclass, field

from meshkit.redis.database import Database, Script
from meshkit.redis.sealing import Sealer, SealRefused, sealed_with

PAGE = 200
"""Values that are asked for at once."""

REPLACE = Script(
    """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
"""
)
"""Key: a hash. Arguments: field, the value that must stand there, the value to put there. Returns 0 if it does not."""


@dataclass
class Tally:
    """What became of the values of a hash.

    Attributes:
        resealed: How many were sealed anew.
        current: How many are sealed with the first key already.
        changed: How many somebody else replaced meanwhile.
        refused: Why a value does not open, by field.
    """

    resealed: int = 0
    current: int = 0
    changed: int = 0
    refused: dict[str, str] = field(default_factory=dict)


async def reseal(database: Database, sealer: Sealer, key: str) -> Tally:
    """Seals each value of a hash with the first key that is not. Nothing that changes meanwhile is overwritten.

    Raises:
        RedisTrouble: Redis cannot be read or written; what was done until then is done.
    """
    tally = Tally()
    async for page in database.hash_pages(key, PAGE):
        for name, value in page.items():
            await _reseal(database, sealer, key, name, value, tally)
    return tally


async def _reseal(
    database: Database, sealer: Sealer, key: str, name: bytes, value: bytes, tally: Tally
) -> None:
    place = name.decode(errors="surrogateescape")
    try:
        plain = sealer.open(value, key=key, field=place)
    except SealRefused as refused:
        tally.refused[name.decode(errors="backslashreplace")] = str(refused)
        return
    if sealed_with(value) == sealer.kid:
        tally.current += 1
        return
    if await database.run(REPLACE, [key], [name, value, sealer.seal(plain, key=key, field=place)]):
        tally.resealed += 1
    else:
        tally.changed += 1
