"""`MeshError` as gRPC puts it on the wire: a status, with `google.rpc.ErrorInfo` in its details (google/rpc)."""

from __future__ import annotations

from collections.abc import Iterable

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from meshkit import metadata
from meshkit.errors import BY_CODE, DOMAIN, MeshError, Unknown

Trailers = tuple[tuple[str, str | bytes], ...]

DETAILS = "grpc-status-details-bin"

_MAX_MESSAGE = 1024
_MAX_DETAIL = 256


def code_of(error: MeshError) -> grpc.StatusCode:
    """The status code that the error stands for."""
    return grpc.StatusCode[error.code]


def trailers_of(error: MeshError) -> Trailers:
    """The trailers that carry what a status code and its text cannot."""
    trailers: list[tuple[str, str | bytes]] = [(DETAILS, _status(error).SerializeToString())]
    if error.unprocessed:
        trailers.append((metadata.UNPROCESSED, "1"))
    if error.pushback is not None:
        trailers.append((metadata.PUSHBACK, str(int(error.pushback * 1000))))
    return tuple(trailers)


def text_of(error: MeshError) -> str:
    """The status text: the error's message, bounded, for headers have a limit."""
    return error.message[:_MAX_MESSAGE]


def _status(error: MeshError) -> Status:
    info = ErrorInfo(reason=error.reason, domain=DOMAIN)
    for key, value in error.details.items():
        info.metadata[key] = value[:_MAX_DETAIL]
    packed = AnyMessage()
    packed.Pack(info)
    return Status(code=code_of(error).value[0], message=text_of(error), details=[packed])


def error_from(
    code: grpc.StatusCode, text: str | None, trailers: Iterable[tuple[str, str | bytes]] | None
) -> MeshError:
    """The error that a status from the wire stands for."""
    values = dict(trailers or ())
    info = _error_info(values.get(DETAILS))
    error = BY_CODE.get(code.name, Unknown)(
        text or code.name, reason=info.reason if info else "", **(dict(info.metadata) if info else {})
    )
    error.unprocessed = values.get(metadata.UNPROCESSED) == "1"
    instance = values.get(metadata.INSTANCE)
    error.instance = instance if isinstance(instance, str) else None
    pushback = values.get(metadata.PUSHBACK)
    if isinstance(pushback, str) and pushback.lstrip("-").isdecimal():
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
