"""The caller's stream of requests, taken once from its source and given to as many attempts as it takes.

What was taken is kept, up to a bound, until the first reply: so an attempt that no handler saw can be made again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable
from types import TracebackType
from typing import Any

from meshkit.pipeline import END

KEPT_BYTES = 256 * 1024
"""Bytes of requests that are kept for another attempt."""


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
        self._pending: list[Any] = []
        self._failure: Exception | None = None
        self._closed = False
        self._changed = asyncio.Event()
        self._taken = asyncio.Event()
        self._taken.set()
        self._feeding = asyncio.ensure_future(self._feed(source)) if source is not None else None

    async def __aenter__(self) -> Requests:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the reading of the source: the call is over."""
        self._closed = True
        self._taken.set()
        self._changed.set()
        if self._feeding is not None:
            self._feeding.cancel()

    def rewind(self) -> bool:
        """Makes `receive` begin again with the first request; False where too much was taken for that."""
        if self._overflown:
            return False
        self._read = 0
        return True

    async def put(self, message: Any) -> None:
        """Gives one message, or `END`; returns when an attempt took it.

        Raises:
            asyncio.InvalidStateError: The call is over.
        """
        data = message if message is END else self._serialize(message)
        await self._taken.wait()
        if self._closed:
            raise asyncio.InvalidStateError("the call is over")
        self._pending.append(data)
        self._changed.set()
        if message is not END:
            self._taken.clear()
            await self._taken.wait()

    async def receive(self) -> Any:
        """The next serialized request for the attempt under way, or `END`."""
        if self._read < len(self._kept):
            self._read += 1
            return self._kept[self._read - 1]
        while not self._pending:
            if self._failure is not None:
                raise self._failure
            self._changed.clear()
            await self._changed.wait()
        message = self._pending[0]
        if message is END:
            return END
        self._pending.clear()
        self._keep(message)
        self._taken.set()
        return message

    def _keep(self, message: bytes) -> None:
        self._size += len(message)
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
        except asyncio.InvalidStateError:
            return
        except Exception as failure:
            self._failure = failure
        self._changed.set()
