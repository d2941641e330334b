"""`MeshError` as gRPC puts it on the wire: a status, with `google.rpc.ErrorInfo` in its details (google/rpc)."""

from __future__ import annotations

import re
from collections.abc import Iterable

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from meshkit import metadata
from meshkit.errors import BY_CODE, DOMAIN, MeshError, Unknown

Trailers = tuple[tuple[str, str | bytes], ...]

WRITE_FAILED = "Internal error from Core"
"""What gRPC says on this side when it cannot write to a call that is over, where that has not come here yet."""

DETAILS = "grpc-status-details-bin"

_PUSHBACK = re.compile(r"-?[0-9]{1,9}")

_MAX_TEXT = 1024
"""Bytes of a status text. It travels twice, once percent-encoded, and gRPC's usual limit of all metadata is 8 KiB."""

_MAX_DETAIL = 256
_MAX_DETAILS = 1536
"""Bytes of one detail's value, and of all details together; what does not fit is left out."""


def code_of(error: MeshError) -> grpc.StatusCode:
    """The status code that the error stands for."""
    return grpc.StatusCode[error.code]


def name_of(code: grpc.StatusCode | int | None) -> str:
    """The name of a status code as gRPC's context of a call has it: as a member, as a number, as nothing for `OK`."""
    if isinstance(code, grpc.StatusCode):
        return code.name
    return next((each.name for each in grpc.StatusCode if each.value[0] == (code or 0)), "UNKNOWN")


def trailers_of(error: MeshError) -> Trailers:
    """The trailers that carry what a status code and its text cannot."""
    trailers: list[tuple[str, str | bytes]] = [(DETAILS, _status(error).SerializeToString())]
    if error.unprocessed:
        trailers.append((metadata.UNPROCESSED, "1"))
    if error.pushback is not None:
        trailers.append((metadata.PUSHBACK, str(int(error.pushback * 1000))))
    if "incident" in error.details:
        trailers.append((metadata.INCIDENT, _ascii(error.details["incident"])))
    return tuple(trailers)


def text_of(error: MeshError) -> str:
    """The status text: the error's message, bounded, for headers have a limit."""
    return _bounded(error.message, _MAX_TEXT)


def _status(error: MeshError) -> Status:
    info = ErrorInfo(reason=_bounded(error.reason, _MAX_DETAIL), domain=DOMAIN)
    room = _MAX_DETAILS
    for key, value in error.details.items():
        shown = _bounded(value, _MAX_DETAIL)
        room -= len(key.encode()) + len(shown.encode())
        if room < 0:
            break
        info.metadata[key] = shown
    packed = AnyMessage()
    packed.Pack(info)
    return Status(code=code_of(error).value[0], message=text_of(error), details=[packed])


def _bounded(text: str, most: int) -> str:
    """The text, cut to so many bytes of UTF-8; what cannot be encoded is replaced."""
    return text[:most].encode(errors="replace")[:most].decode(errors="ignore")


def _ascii(text: str) -> str:
    return _bounded(text, _MAX_DETAIL).encode("ascii", "replace").decode()


def error_from(
    code: grpc.StatusCode, text: str | None, trailers: Iterable[tuple[str, str | bytes]] | None
) -> MeshError:
    """The error that a status from the wire stands for."""
    values = dict(trailers or ())
    info = _error_info(values.get(DETAILS))
    error = BY_CODE.get(code.name, Unknown)(text or code.name, reason=info.reason if info else "")
    error.details = dict(info.metadata) if info else {}
    error.unprocessed = values.get(metadata.UNPROCESSED) == "1"
    instance = values.get(metadata.INSTANCE)
    error.instance = instance if isinstance(instance, str) else None
    pushback = values.get(metadata.PUSHBACK)
    if isinstance(pushback, str) and _PUSHBACK.fullmatch(pushback):
        error.pushback = int(pushback) / 1000
    return error


def _error_info(raw: str | bytes | None) -> ErrorInfo | None:
    if not isinstance(raw, bytes):
        return None
    info = ErrorInfo()
    try:
        for detail in Status.FromString(raw).details:
            if detail.Unpack(info) and info.domain == DOMAIN:
                return info
    except DecodeError:
        return None
    return None
