"""The caller's stream of requests, taken once from its source and given to as many attempts as it takes.

What was taken is kept, up to a bound, until the first reply: so an attempt that no handler saw can be made again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable
from types import TracebackType
from typing import Any

from meshkit.errors import Cancelled
from meshkit.pipeline import END

KEPT_BYTES = 256 * 1024
"""Bytes of requests that are kept for another attempt."""

_OVERHEAD = 64
"""Bytes that a kept message counts beside its own: an endless stream of empty messages is kept no longer either."""


class Requests:
    """A stream of requests that can be read from the start again.

    The source is read by a task of its own, never more than one message ahead, so that the end of an attempt does not
    disturb it.

    Args:
        source: The caller's messages; None where they come by `write`.
        serialize: Makes bytes of a message.
        kept_bytes: Bytes that are kept for another attempt; with more, there is none.
    """

    def __init__(
        self,
        source: AsyncIterable[Any] | Iterable[Any] | None,
        serialize: Callable[[Any], bytes],
        *,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self._serialize = serialize
        self._kept_bytes = kept_bytes
        self._kept: list[bytes] = []
        self._size = 0
        self._overflown = False
        self._read = 0
        self._pending: Any = None
        self._failure: Exception | None = None
        self._half_closed = False
        self._closed = False
        self._changed = asyncio.Event()
        self._taken = asyncio.Event()
        self._feeding = asyncio.ensure_future(self._feed(source)) if source is not None else None

    async def __aenter__(self) -> Requests:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def fed(self) -> bool:
        """Whether the requests come from a source, not by `put`."""
        return self._feeding is not None

    def settle(self) -> None:
        """Says that there will be no other attempt: nothing needs to be kept any more."""
        self._overflown = True
        self._kept.clear()
        self._read = 0

    def close(self) -> None:
        """Ends the reading of the source: the call is over."""
        self._closed = True
        self._taken.set()
        self._changed.set()
        if self._feeding is not None:
            self._feeding.cancel()

    def rewind(self) -> bool:
        """Makes `receive` begin again with the first request; False where too much was taken, or the source failed."""
        if self._overflown or self._failure is not None:
            return False
        self._read = 0
        return True

    async def put(self, message: Any) -> None:
        """Gives one message, or `END`; returns when an attempt took it.

        Raises:
            asyncio.InvalidStateError: The call is over, or `END` was given before.
        """
        data = message if message is END else self._serialize(message)
        if self._half_closed:
            raise asyncio.InvalidStateError("the stream of requests was ended before")
        self._half_closed = data is END
        while self._pending is not None and not self._closed:
            await self._take()
        if self._closed:
            raise asyncio.InvalidStateError("the call is over")
        self._pending = data
        self._changed.set()
        while self._pending is data and data is not END and not self._closed:
            await self._take()

    async def _take(self) -> None:
        """Waits until the message that pends may have been taken."""
        self._taken.clear()
        await self._taken.wait()

    async def receive(self) -> Any:
        """The next serialized request for the attempt under way, or `END`."""
        if self._read < len(self._kept):
            self._read += 1
            return self._kept[self._read - 1]
        while self._pending is None:
            if self._failure is not None:
                raise self._failure
            self._changed.clear()
            await self._changed.wait()
        if self._pending is END:
            return END
        message: bytes = self._pending
        self._pending = None
        self._keep(message)
        self._taken.set()
        return message

    def _keep(self, message: bytes) -> None:
        self._size += len(message) + _OVERHEAD
        if self._overflown or self._size > self._kept_bytes:
            self._overflown = True
            self._kept.clear()
            self._read = 0
            return
        self._kept.append(message)
        self._read = len(self._kept)

    async def _feed(self, source: AsyncIterable[Any] | Iterable[Any]) -> None:
        try:
            if isinstance(source, AsyncIterable):
                async for message in source:
                    await self.put(message)
            else:
                for message in source:
                    await self.put(message)
            await self.put(END)
        except asyncio.CancelledError:
            if self._closed:
                raise
            self._failure = Cancelled(
                "the caller's stream of requests was cancelled", reason="REQUESTS_CANCELLED"
            )
        except Exception as failure:  # kept for the attempt
            self._failure = failure
        self._changed.set()
