"""The nonces that replicas share in Redis: of proofs for no particular instance, on methods that are not idempotent.

Each replica remembers what it saw itself (`NonceCache`); a proof that names no instance could be shown to another one
besides. Where running twice does harm, the nonce is taken in Redis, once for all, for as long as a replay would look
fresh: the key `<namespace>:nonces:<project>:<nonce>`.
"""

from __future__ import annotations

import asyncio

import structlog

from meshkit.errors import Unauthenticated, Unavailable
from meshkit.redis.database import Database
from meshkit.redis.trouble import RedisTrouble

PATIENCE_S = 1.0
"""Seconds that Redis has to answer, before a call is let in or refused without it."""

log = structlog.get_logger("meshkit.security")


class SharedNonces:
    """Takes nonces in Redis.

    Args:
        database: The Redis; dialled when the first nonce is taken.
        namespace: Name of the mesh.
        window: Seconds for which a nonce is remembered: twice the clock skew allowed, and a little more.
        closed: Whether a call is refused while Redis cannot be asked, rather than let in.
        patience: Seconds that Redis has to answer.
    """

    def __init__(
        self,
        database: Database,
        *,
        namespace: str,
        window: float,
        closed: bool,
        patience: float = PATIENCE_S,
    ) -> None:
        self._database = database
        self._prefix = f"{namespace}:nonces"
        self._milliseconds = int(window * 1000) + 2000
        self._closed = closed
        self._patience = patience
        self._well = True

    async def take(self, project: str, nonce: str) -> None:
        """Takes a nonce of a project whose proof holds.

        Raises:
            Unauthenticated: A replica took it before.
            Unavailable: Redis cannot be asked, and that closes; the call was not processed.
        """
        key = f"{self._prefix}:{project}:{nonce}"
        try:
            async with asyncio.timeout(self._patience):
                taken = await self._database.execute("SET", key, 1, "NX", "PX", self._milliseconds)
        except (RedisTrouble, TimeoutError) as error:
            self._fail(error)
            return
        self._tell(None)
        if taken is None:
            raise Unauthenticated("the proof was used before", reason="PROOF_REPLAYED")

    async def close(self) -> None:
        """Ends its connections."""
        await self._database.close()

    def _fail(self, error: Exception) -> None:
        self._tell(error)
        if not self._closed:
            return
        refusal = Unavailable(
            "whether another replica saw this call cannot be said, for Redis does not answer; sign for one instance",
            reason="REPLAY_UNCHECKED",
        )
        refusal.unprocessed = True
        raise refusal

    def _tell(self, error: Exception | None) -> None:
        """Logs when trouble begins and when it ends."""
        if error is not None and self._well:
            done = "are refused" if self._closed else "are let in, and each replica would take one once"
            log.warning(
                f"Redis cannot be asked for nonces; calls for any instance of methods that are not idempotent {done}",
                reason=str(error) or "it does not answer in time",
            )
        elif error is None and not self._well:
            log.info("Redis is asked for nonces again")
        self._well = error is None
