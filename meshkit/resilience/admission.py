"""The overall cap: how many calls an instance serves at once, and none while it drains."""

from __future__ import annotations

from dataclasses import dataclass

from meshkit.errors import MeshError, ResourceExhausted, Unavailable
from meshkit.pipeline import Exchange, Handler, Middleware


@dataclass(slots=True)
class Admission:
    """Which calls may enter.

    Attributes:
        limit: Calls served at once at most.
        running: Calls being served now.
        refusing: Why no calls are taken at all (`STARTING`, `DRAINING`); None while they are.
    """

    limit: int = 1000
    running: int = 0
    refusing: str | None = None


def admitting(admission: Admission) -> Middleware:
    """The layer that turns calls away before any work is done for them, so that callers may try elsewhere."""

    def wrap(next: Handler) -> Handler:
        async def admitted(exchange: Exchange) -> None:
            if admission.refusing is not None:
                raise _refusal(
                    Unavailable(f"the instance is {admission.refusing.lower()}", reason=admission.refusing)
                )
            if admission.running >= admission.limit:
                busy = ResourceExhausted("the instance serves as many calls as it can", reason="OVERLOADED")
                busy.pushback = 0.1
                raise _refusal(busy)
            admission.running += 1
            try:
                await next(exchange)
            finally:
                admission.running -= 1

        return admitted

    return wrap


def _refusal(error: MeshError) -> MeshError:
    error.unprocessed = True
    return error
