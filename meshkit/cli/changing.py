"""What requests to change a mesh that runs have in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from meshkit.cli.control import JsonObject
from meshkit.cli.nearest import did_you_mean
from meshkit.errors import DeadlineExceeded, InvalidArgument

MAX_TIMEOUT_S = 3600.0


class Request(BaseModel):
    """A request of the control socket.

    Attributes:
        timeout_s: Seconds to wait at most.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    timeout_s: float = Field(default=60.0, gt=0, le=MAX_TIMEOUT_S)

    @classmethod
    def read(cls, fields: JsonObject) -> Self:
        """The request that came.

        Raises:
            InvalidArgument: It is wrong.
        """
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InvalidArgument(f"{where}: {first['msg']}", reason="BAD_REQUEST") from None


def no_such_service(name: str, known: Iterable[str]) -> str:
    """Says that there is no such service, what may have been meant, and what there is."""
    known = list(known)
    return f"this mesh has no service {name!r}{did_you_mean(name, known)}\n  it has {', '.join(known)}"


def under_way(seconds: float, reason: str) -> DeadlineExceeded:
    """The error of who waited in vain for another change to end."""
    return DeadlineExceeded(
        f"another scaling or restart is under way, and has not ended in {seconds:g} s; nothing was changed",
        reason=reason,
    )
