"""Asking the system for the addresses of a name, without keeping the event loop waiting."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable

Resolve = Callable[[str], Awaitable[frozenset[str]]]
"""Finds the IP addresses of a name: none where it has none. Raises `OSError` where that cannot be told now."""

_NO_ADDRESS = frozenset(
    getattr(socket, name)
    for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY")
    if hasattr(socket, name)  # systems differ
)
"""The resolver's ways to say that a name has no addresses. All others (SERVFAIL, no answer) say nothing of it."""


class SystemResolver:
    """All IPv4 and IPv6 addresses of a name, or of an address as it is, by the system's own resolver.

    A look-up has a thread of its own, which the end of the process does not wait for: with name servers that do not
    answer it takes many seconds until it gives up, and cannot be cut short. Whoever asks for the same name meanwhile
    waits for the same look-up, so there are never more threads than names.
    """

    def __init__(self) -> None:
        self._under_way: dict[str, asyncio.Future[frozenset[str]]] = {}

    async def __call__(self, host: str) -> frozenset[str]:
        """The addresses of a name.

        Raises:
            OSError: They cannot be told now.
        """
        answer = self._under_way.get(host) or self._begin(host)
        return await asyncio.shield(answer)

    def _begin(self, host: str) -> asyncio.Future[frozenset[str]]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[frozenset[str]] = loop.create_future()

        def settle(found: frozenset[str] | Exception) -> None:
            del self._under_way[host]
            if isinstance(found, Exception):
                answer.set_exception(found)
                answer.exception()  # those who asked may have gone
            else:
                answer.set_result(found)

        def look_up() -> None:
            found = _addresses(host)
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits any more
                loop.call_soon_threadsafe(settle, found)

        threading.Thread(target=look_up, name=f"meshkit-dns {host}", daemon=True).start()
        self._under_way[host] = answer
        return answer


def _addresses(host: str) -> frozenset[str] | Exception:
    try:
        rows = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        return frozenset() if error.errno in _NO_ADDRESS else error
    except Exception as error:  # it is raised where it is waited for
        return error
    return frozenset(str(address[0]) for _, _, _, _, address in rows)
