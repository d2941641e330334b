"""What an answerer is: given a question and sources, it words an answer, piece by piece."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from reference_services.router.model import Source, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What an answerer is asked.

    Attributes:
        text: What the user says, masked where the agent masks.
        sources: What was retrieved, best first; their numbers are their places, from 1.
        seconds_left: Time that the answer may take, in seconds.
    """

    text: str
    sources: Sequence[Source]
    seconds_left: float = float("inf")


@dataclass(frozen=True, slots=True)
class Piece:
    """More of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The last thing an answerer says.

    Attributes:
        quotes: By the number of each source that the answer refers to, the words relied upon; empty where it
            does not say which.
        answered: False where nothing was found to answer from.
        usage: What it took.
        notes: What there is to say of it; never personal data.
    """

    quotes: dict[int, str] = field(default_factory=dict)
    answered: bool = True
    usage: Usage = field(default_factory=Usage)
    notes: tuple[str, ...] = ()


Draft: TypeAlias = Piece | Finished
"""What an answerer yields: pieces, then `Finished`."""


class Answerer(Protocol):
    """Words answers."""

    @property
    def name(self) -> str:
        """Who it is, as in `answered_by`."""
        ...

    @property
    def external(self) -> bool:
        """Whether what it is given leaves the mesh, so that sources need masking too."""
        ...

    def answer(self, question: Question) -> AsyncGenerator[Draft, None]:
        """Words an answer. The caller closes it.

        Raises:
            MeshError: It cannot.
        """
        ...
