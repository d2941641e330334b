"""The one error tree of the mesh: what a handler raises is what the caller catches.

Each class stands for one gRPC status code. A `MeshError` that leaves a handler travels as that status with a
`google.rpc.ErrorInfo` (domain `meshkit`, the error's `reason` and `details`); the calling side raises the same class
again. Nothing here imports grpc: the names of the codes are gRPC's, their mapping to the wire is `transport`'s.
"""

from __future__ import annotations

from typing import ClassVar

DOMAIN = "meshkit"
"""The `domain` of the `google.rpc.ErrorInfo` in which reasons travel."""


class MeshError(Exception):
    """A failure that both sides of a call can name.

    Args:
        message: One sentence for the caller. It crosses the wire: no secrets, nothing of other tenants.
        reason: A stable identifier in UPPER_SNAKE_CASE that programs may branch on; by default the status code's name.
        **details: Facts that belong to the reason. They cross the wire as text.

    Attributes:
        code: Name of the gRPC status code.
        unprocessed: True where it is certain that no handler saw the call, so that any method may be tried again.
        instance: Id of the instance that the failed call went to; None where the failure is of this process.
        pushback: Seconds to wait before another try, where the server asked for it.
    """

    code: ClassVar[str] = "UNKNOWN"

    def __init__(self, message: str = "", *, reason: str = "", **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.code
        self.details: dict[str, str] = {key: str(value) for key, value in details.items()}
        self.unprocessed = False
        self.instance: str | None = None
        self.pushback: float | None = None

    def __str__(self) -> str:
        return f"{self.message} [{self.reason}]" if self.message else self.reason

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.reason, self.details, self.__dict__.copy()))


def _rebuild(
    kind: type[MeshError], message: str, reason: str, details: dict[str, str], state: dict[str, object]
) -> MeshError:
    error = kind(message, reason=reason)
    error.details = details
    error.__dict__.update(state)
    return error


class Cancelled(MeshError):
    """The caller gave the call up."""

    code = "CANCELLED"


class Unknown(MeshError):
    """The other side failed without saying how."""

    code = "UNKNOWN"


class InvalidArgument(MeshError):
    """The request is wrong whatever the state of the service."""

    code = "INVALID_ARGUMENT"


class DeadlineExceeded(MeshError):
    """The time allowed for the call has passed."""

    code = "DEADLINE_EXCEEDED"


class NotFound(MeshError):
    """What was asked for does not exist, or not for this caller."""

    code = "NOT_FOUND"


class AlreadyExists(MeshError):
    """What was to be made is there already."""

    code = "ALREADY_EXISTS"


class PermissionDenied(MeshError):
    """The caller is known, and may not do this."""

    code = "PERMISSION_DENIED"


class ResourceExhausted(MeshError):
    """A quota or a limit is reached."""

    code = "RESOURCE_EXHAUSTED"


class FailedPrecondition(MeshError):
    """The request is right, the state of the service is not; a repeat will not help until it changes."""

    code = "FAILED_PRECONDITION"


class Aborted(MeshError):
    """A conflict with another call; the caller may start its unit of work again."""

    code = "ABORTED"


class OutOfRange(MeshError):
    """The request reaches past the end of what exists."""

    code = "OUT_OF_RANGE"


class Unimplemented(MeshError):
    """The service has no such method."""

    code = "UNIMPLEMENTED"


class Internal(MeshError):
    """The service failed; its log holds the cause under the incident id."""

    code = "INTERNAL"


class Unavailable(MeshError):
    """No instance could take the call now."""

    code = "UNAVAILABLE"


class DataLoss(MeshError):
    """Stored data are lost or damaged."""

    code = "DATA_LOSS"


class Unauthenticated(MeshError):
    """The caller did not prove who it is."""

    code = "UNAUTHENTICATED"


BY_CODE: dict[str, type[MeshError]] = {
    kind.code: kind
    for kind in (
        Cancelled,
        Unknown,
        InvalidArgument,
        DeadlineExceeded,
        NotFound,
        AlreadyExists,
        PermissionDenied,
        ResourceExhausted,
        FailedPrecondition,
        Aborted,
        OutOfRange,
        Unimplemented,
        Internal,
        Unavailable,
        DataLoss,
        Unauthenticated,
    )
}
"""The class of each gRPC status code but OK."""
