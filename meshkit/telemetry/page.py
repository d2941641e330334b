"""The page that Prometheus reads: `GET /metrics` on a port of its own, served by the event loop of the process.

Prometheus asks once in some seconds, and each answer takes about a millisecond, so there is no web server here and no
thread: a request is read up to a bound and within a time, answered, and the connection closed.
"""

from __future__ import annotations

import asyncio
import errno

import structlog

from meshkit.telemetry.figures import Collect
from meshkit.telemetry.prometheus import CONTENT_TYPE, exposition

log = structlog.get_logger("meshkit.telemetry")

PATIENCE_S = 5.0
"""Seconds that a request may take to arrive, and its answer to be taken."""

MAX_REQUEST_BYTES = 16 * 1024
"""Bytes that a request may have."""

MAX_CONNECTIONS = 16
"""Requests that are answered at once; further ones are closed unread."""


class MetricsPage:
    """Serves figures to Prometheus.

    Args:
        collect: Gives them.
    """

    def __init__(self, collect: Collect) -> None:
        self._collect = collect
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def open(self, host: str, port: int) -> int:
        """Begins to serve; on a free port where that one is taken, as it is by the first replica of several.

        What cannot be bound to is no reason not to serve calls: there is a warning, and no page.

        Returns:
            The port; 0 where there is no page.
        """
        try:
            self._server = await self._listen(host, port)
        except OSError as error:
            why = error.strerror or str(error)
            log.warning(
                "no page of metrics: set METRICS_HOST and METRICS_PORT to what can be bound to",
                host=host,
                port=port,
                why=why,
            )
            return 0
        bound: int = self._server.sockets[0].getsockname()[1]
        log.info("metrics", url=f"http://{f'[{host}]' if ':' in host else host}:{bound}/metrics")
        return bound

    async def _listen(self, host: str, port: int) -> asyncio.Server:
        try:
            return await asyncio.start_server(self._connected, host, port, limit=MAX_REQUEST_BYTES)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        return await asyncio.start_server(self._connected, host, 0, limit=MAX_REQUEST_BYTES)

    async def close(self) -> None:
        """Ends it."""
        if self._server is None:
            return
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await self._server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            if len(self._open) <= MAX_CONNECTIONS:
                async with asyncio.timeout(PATIENCE_S):
                    await self._answer(reader, writer)
        except (TimeoutError, OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asked has gone, or sends no request of HTTP
        finally:
            self._open.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, _, rest = head.decode("latin-1").partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if method not in ("GET", "HEAD"):
            status, text = "405 Method Not Allowed", "only GET\n"
        elif path != "/metrics":
            status, text = "404 Not Found", "the page is /metrics\n"
        else:
            status, text = "200 OK", exposition(self._collect())
        body = text.encode()
        kind = CONTENT_TYPE if status.startswith("200") else "text/plain; charset=utf-8"
        fields = f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
        writer.write(f"HTTP/1.1 {status}\r\n{fields}\r\n".encode() + (b"" if method == "HEAD" else body))
        await writer.drain()
