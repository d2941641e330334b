"""What can be wrong between us and a Redis, in words for the operator."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator

from redis import exceptions
from redis.asyncio.sentinel import MasterNotFoundError


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


class MasterUnknown(MasterNotFoundError):
    """Sentinels answered, and none of them watches a master of that name."""


def explain(error: BaseException, where: str) -> RedisTrouble:
    """Says what an error of the client library means.

    Args:
        error: What it raised.
        where: The Redis as an operator would name it, without credentials.
    """
    causes = list(_causes(error))
    if any(isinstance(cause, MasterNotFoundError) for cause in causes):
        where = f"a Sentinel of {where}"
    for cause in causes:
        trouble = _from_tls(cause, where) or _from_refusal(cause, where)
        if trouble is not None:
            return trouble
    return _from_silence(error, where)


def too_old(version: str, minimum: str, where: str) -> RedisTrouble:
    """The trouble of a server that is older than the scripts need."""
    return _final(
        "REDIS_TOO_OLD", f"{where} is Redis {version}, and {minimum} or newer is needed: upgrade it"
    )


def another_kind(kind: str, where: str) -> RedisTrouble:
    """The trouble of a server that is of another kind than the URL says."""
    return _final("REDIS_KIND", f"{where} belongs to a {kind.title()}: write +{kind} behind the URL's scheme")


def _from_tls(cause: BaseException, where: str) -> RedisTrouble | None:
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
    return None


def _from_refusal(cause: BaseException, where: str) -> RedisTrouble | None:
    """The trouble where somebody answered, and refused: what it says in the end is never lost in what wraps it."""
    text = str(cause)
    if isinstance(cause, exceptions.AuthenticationError) or text.startswith(("WRONGPASS", "NOAUTH")):
        hint = "; sentinel_auth=true there gives them to Sentinels too" if "a Sentinel" in where else ""
        return _final(
            "REDIS_CREDENTIALS", f"{where} refuses the user or the password: mend them in the URL{hint}"
        )
    if isinstance(cause, exceptions.NoPermissionError) or _lacks_rights(text):
        return _final(
            "REDIS_RIGHTS",
            f"{where}: the user's ACL lacks a right ({_first_line(text)}); docs/redis.md lists them",
        )
    if isinstance(cause, MasterUnknown):
        return _final(
            "REDIS_MASTER_UNKNOWN", f"{where} watches no master of that name: mend the path of the URL"
        )
    if not isinstance(cause, exceptions.ResponseError):
        return None
    if isinstance(cause, exceptions.OutOfMemoryError):
        return _passing("REDIS_FULL", f"{where} is at its maxmemory, and takes no writes")
    if "WRONGTYPE" in text:
        return _final(
            "REDIS_KEY_TAKEN", f"a key of ours in {where} holds something else ({_first_line(text)})"
        )
    if isinstance(cause, exceptions.MovedError) and "+cluster" not in where:
        return another_kind("cluster", where)
    if "cluster support disabled" in text or "unknown command 'SENTINEL'" in text:
        return _final("REDIS_KIND", f"{where} is a server by itself: mend the scheme of the URL")
    if "unknown command" in text.lower():
        return _final("REDIS_TOO_OLD", f"{where} does not know a command that is needed: {_first_line(text)}")
    return None


def _from_silence(error: BaseException, where: str) -> RedisTrouble:
    """The trouble where nobody answered, or in a way that nobody foresaw."""
    unknown = next((cause for cause in _causes(error) if isinstance(cause, socket.gaierror)), None)
    if unknown is not None:
        return _passing("REDIS_UNREACHABLE", f"the name in {where} is not known: {unknown.strerror}")
    if isinstance(error, exceptions.TimeoutError | TimeoutError):
        hint = ": it hangs, or does not speak TLS" if "rediss" in where else ""
        return _passing("REDIS_UNREACHABLE", f"{where} does not answer in time{hint}")
    if isinstance(error, exceptions.ConnectionError | exceptions.RedisClusterException | OSError):
        return _passing("REDIS_UNREACHABLE", f"{where} cannot be reached: {_system_error(error)}")
    return _passing("REDIS_FAILED", f"{where} failed: {_first_line(str(error))}")


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
