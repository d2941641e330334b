"""An embedder at an OpenAI-compatible endpoint."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import numpy as np

from meshkit import FailedPrecondition, Unavailable
from reference_services.brain.embedder import Vectors, normalised

if TYPE_CHECKING:
    from openai import AsyncOpenAI

BATCH = 64
"""Texts in one request."""


class EndpointEmbedder:
    """Asks an OpenAI-compatible endpoint (`POST <base URL>/embeddings`).

    Args:
        client: The client, with address, key and timeout.
        model: Name of the model.
        dimensions: Length of the model's vectors; an answer of another length is refused.
    """

    span = None
    trust = 1.0
    costly = True

    def __init__(self, client: AsyncOpenAI, model: str, dimensions: int) -> None:
        self.name = f"openai:{model}"
        self.dimensions = dimensions
        self._client = client
        self._model = model

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Embeds texts, `BATCH` a request."""
        parts = [await self._request(texts[at : at + BATCH]) for at in range(0, len(texts), BATCH)]
        if not parts:
            return np.zeros((0, self.dimensions), dtype=np.float32)
        return np.concatenate(parts)

    async def _request(self, texts: Sequence[str]) -> Vectors:
        from openai import APIConnectionError, APIStatusError, OpenAIError

        try:
            answer = await self._client.embeddings.create(
                model=self._model, input=list(texts), encoding_format="float"
            )
        except APIConnectionError as error:  # time-outs too
            raise _unavailable("cannot be reached or is too slow") from error
        except APIStatusError as error:
            raise _refused(error.status_code) from error
        except (OpenAIError, ValueError) as error:
            raise _unavailable("gave an answer that is none") from error
        rows = sorted(answer.data or [], key=lambda row: row.index)
        if len(rows) != len(texts):
            raise _unavailable(f"answered with {len(rows)} vectors for {len(texts)} texts")
        return self._checked([row.embedding for row in rows])

    def _checked(self, rows: list[list[float]]) -> Vectors:
        for row in rows:
            if len(row) != self.dimensions:
                raise FailedPrecondition(
                    f"the embedding model {self._model} makes vectors of {len(row)} dimensions, "
                    f"brain is set to {self.dimensions}: set BRAIN_EMBEDDING_DIMENSIONS={len(row)} "
                    f"(before any cell is stored)",
                    reason="EMBEDDER_DIMENSIONS",
                    model=self._model,
                    dimensions=len(row),
                )
        matrix = np.array(rows, dtype=np.float32)
        if not np.isfinite(matrix).all():
            raise _unavailable("answered with vectors that are not finite")
        return normalised(matrix)


def _unavailable(what: str) -> Unavailable:
    return Unavailable(f"the embedding endpoint {what}", reason="EMBEDDER_UNAVAILABLE")


def _refused(status: int) -> Unavailable | FailedPrecondition:
    """The error for an HTTP status: what may pass by itself is Unavailable, a wrong set-up is not."""
    if status in (408, 409, 425, 429) or status >= 500:
        return _unavailable(f"answered with HTTP status {status}")
    return FailedPrecondition(
        f"the embedding endpoint refuses with HTTP status {status}: "
        "check BRAIN_EMBEDDING_BASE_URL, BRAIN_EMBEDDING_API_KEY and BRAIN_EMBEDDING_MODEL",
        reason="EMBEDDER_REFUSED",
        http_status=status,
    )


@asynccontextmanager
async def open_endpoint(
    *, base_url: str, api_key: str, model: str, dimensions: int, timeout: float
) -> AsyncGenerator[EndpointEmbedder]:
    """Opens an embedder at an endpoint.

    Args:
        base_url: Address up to and without `/embeddings`, for example `http://localhost:11434/v1`.
        api_key: Key of the endpoint; may be empty where it needs none.
        model: Name of the model.
        dimensions: Length of its vectors.
        timeout: Seconds for a request, of which at most two are made.

    Raises:
        FailedPrecondition: `EXTRA_MISSING`: the openai package is not installed.
    """
    try:
        from openai import AsyncOpenAI
    except ImportError as error:
        raise FailedPrecondition(
            "BRAIN_EMBEDDER=openai needs the openai package: pip install 'meshkit[llm]'",
            reason="EXTRA_MISSING",
        ) from error
    client = AsyncOpenAI(base_url=base_url, api_key=api_key or "none", timeout=timeout, max_retries=1)
    async with client:
        yield EndpointEmbedder(client, model, dimensions)
