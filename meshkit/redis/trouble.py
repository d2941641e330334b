"""What can be wrong between us and a Redis, in words for the operator."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator

from redis import exceptions


class RedisTrouble(Exception):
    """A command, a script or a subscription failed.

    Attributes:
        reason: A stable identifier in UPPER_SNAKE_CASE.
        heals: Whether it may pass by itself. What does not (a wrong password, a certificate that is not
            trusted, missing rights, a server too old) needs somebody who changes something.
    """

    def __init__(self, message: str, *, reason: str, heals: bool) -> None:
        super().__init__(message)
        self.reason = reason
        self.heals = heals


def explain(error: BaseException, where: str) -> RedisTrouble:
    """Says what an error of the client library means.

    Args:
        error: What it raised.
        where: The Redis as an operator would name it, without credentials.
    """
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _final(
                "REDIS_UNTRUSTED",
                f"{where} shows a certificate that is not trusted ({cause.verify_message}): name its authority "
                "with ssl_ca_certs= in the URL, and dial a name that the certificate is for",
            )
        if isinstance(cause, ssl.SSLError):
            return _final(
                "REDIS_TLS",
                f"no TLS connection with {where} ({cause.reason or 'handshake failed'}): does it speak TLS, and "
                "want a client certificate (ssl_certfile=, ssl_keyfile=)?",
            )
        if isinstance(cause, FileNotFoundError | PermissionError) and cause.filename is None:
            return _final("REDIS_TLS", f"a certificate file of {where} cannot be read: {cause.strerror}")
        if isinstance(cause, socket.gaierror):
            return _passing("REDIS_UNREACHABLE", f"the name in {where} is not known: {cause.strerror}")
    return _from_reply(error, where)


def too_old(version: str, minimum: str, where: str) -> RedisTrouble:
    """The trouble of a server that is older than the scripts need."""
    return _final(
        "REDIS_TOO_OLD", f"{where} is Redis {version}, and {minimum} or newer is needed: upgrade it"
    )


def _from_reply(error: BaseException, where: str) -> RedisTrouble:
    text = str(error)
    if isinstance(error, exceptions.AuthenticationError) or text.startswith(("WRONGPASS", "NOAUTH")):
        return _final("REDIS_CREDENTIALS", f"{where} refuses the user or the password: mend them in the URL")
    if isinstance(error, exceptions.NoPermissionError) or _lacks_rights(text):
        return _final(
            "REDIS_RIGHTS",
            f"{where}: the user's ACL lacks a right ({_first_line(text)}); docs/redis.md lists them",
        )
    if "WRONGTYPE" in text:
        return _final(
            "REDIS_KEY_TAKEN", f"a key of ours in {where} holds something else ({_first_line(text)})"
        )
    if "unknown command" in text.lower():
        return _final("REDIS_TOO_OLD", f"{where} does not know a command that is needed: {_first_line(text)}")
    if isinstance(error, exceptions.OutOfMemoryError):
        return _passing("REDIS_FULL", f"{where} is at its maxmemory, and takes no writes")
    if isinstance(error, exceptions.TimeoutError | TimeoutError):
        hint = ": does it speak TLS?" if where.startswith("rediss") else ""
        return _passing("REDIS_UNREACHABLE", f"{where} does not answer in time{hint}")
    if isinstance(error, exceptions.ConnectionError | exceptions.RedisClusterException | OSError):
        return _passing("REDIS_UNREACHABLE", f"{where} cannot be reached: {_system_error(error)}")
    return _passing("REDIS_FAILED", f"{where} failed: {_first_line(text)}")


def _system_error(error: BaseException) -> str:
    """What the operating system says, where it is its error: the client library wraps that up with the address."""
    numbers = (cause.errno for cause in _causes(error) if isinstance(cause, OSError) and cause.errno)
    number = next(numbers, None)
    return (
        os.strerror(number).lower() if number and number > 0 else _first_line(str(error)).rstrip(".").lower()
    )


def _lacks_rights(text: str) -> bool:
    return text.startswith("NOPERM") or "ACL failure" in text or "executing the script can't" in text


def _first_line(text: str) -> str:
    return text.splitlines()[0][:200] if text else "no reason given"


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    for _ in range(8):
        if seen is None:
            return
        yield seen
        seen = seen.__cause__ or seen.__context__


def _final(reason: str, message: str) -> RedisTrouble:
    return RedisTrouble(message, reason=reason, heals=False)


def _passing(reason: str, message: str) -> RedisTrouble:
    return RedisTrouble(message, reason=reason, heals=True)
