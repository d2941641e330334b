"""The embedder at an OpenAI-compatible endpoint, against a server on a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from meshkit import FailedPrecondition, MeshError, Unavailable
from meshkit.config import ConfigError, Secret
from reference_services.brain.config import BrainConfig
from reference_services.brain.endpoint import BATCH, open_endpoint
from reference_services.brain.service import Brain, open_embedder

Answer = Callable[[dict[str, Any]], tuple[int, Any] | None]


class Endpoint:
    """An HTTP server that answers embedding requests."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.url = ""
        self.stopping = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                assert line.startswith(b"POST /v1/embeddings ")
                headers = {}
                while (field := await reader.readline()) != b"\r\n":
                    name, _, value = field.decode().partition(":")
                    headers[name.lower()] = value.strip()
                body = json.loads(await reader.readexactly(int(headers["content-length"])))
                self.requests.append(body)
                self.keys.append(headers["authorization"])
                given = self.answer(body)
                if given is None:
                    await self.stopping.wait()
                    break
                payload = given[1].encode() if isinstance(given[1], str) else json.dumps(given[1]).encode()
                kind = "content-type: application/json\r\n"
                head = f"HTTP/1.1 {given[0]} X\r\n{kind}content-length: {len(payload)}\r\n\r\n"
                writer.write(head.encode() + payload)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[Endpoint]:
    endpoint = Endpoint(answer)
    server = await asyncio.start_server(endpoint.serve, "127.0.0.1", 0)
    endpoint.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield endpoint
    finally:
        endpoint.stopping.set()
        server.close()
        await server.wait_closed()


def vectors(body: dict[str, Any], dimensions: int = 3) -> tuple[int, Any]:
    rows = [
        {"object": "embedding", "index": i, "embedding": [float(len(text)), 1.0, *[0.0] * (dimensions - 2)]}
        for i, text in enumerate(body["input"])
    ]
    return 200, {"object": "list", "model": body["model"], "data": rows[::-1], "usage": {}}


def opened(url: str, timeout: float = 5.0):  # type: ignore[no-untyped-def]
    return open_endpoint(base_url=url, api_key="k-123", model="m", dimensions=3, timeout=timeout)


async def test_vectors_come_in_the_order_of_the_texts_and_normalised() -> None:
    async with serving(vectors) as endpoint, opened(endpoint.url) as embedder:
        texts = ["x" * i for i in range(1, BATCH + 10)]
        found = await embedder.embed(texts)
        assert found.shape == (len(texts), 3)
        assert np.allclose(np.linalg.norm(found, axis=1), 1)
        assert found[0][0] / found[0][1] == pytest.approx(1)
        assert found[69 - 1][0] / found[69 - 1][1] == pytest.approx(69, rel=1e-4)
        assert [len(request["input"]) for request in endpoint.requests] == [BATCH, 9]
        assert set(endpoint.keys) == {"Bearer k-123"}
        assert embedder.name == "openai:m"


@pytest.mark.parametrize(
    ("answer", "kind", "reason"),
    [
        (lambda body: (503, {"error": {"message": "k-123"}}), Unavailable, "EMBEDDER_UNAVAILABLE"),
        (lambda body: (429, {}), Unavailable, "EMBEDDER_UNAVAILABLE"),
        (lambda body: (200, "no json"), Unavailable, "EMBEDDER_UNAVAILABLE"),
        (lambda body: (200, {"data": []}), Unavailable, "EMBEDDER_UNAVAILABLE"),
        (lambda body: (401, {"error": {"message": "bad key k-123"}}), FailedPrecondition, "EMBEDDER_REFUSED"),
        (lambda body: (404, {}), FailedPrecondition, "EMBEDDER_REFUSED"),
        (lambda body: vectors(body, 5), FailedPrecondition, "EMBEDDER_DIMENSIONS"),
    ],
)
async def test_what_goes_wrong_there_is_an_error_without_secrets(
    answer: Answer, kind: type[MeshError], reason: str
) -> None:
    async with serving(answer) as endpoint, opened(endpoint.url) as embedder:
        with pytest.raises(kind) as caught:
            await embedder.embed(["private text"])
        assert caught.value.reason == reason
        assert "k-123" not in str(caught.value)
        assert "private" not in str(caught.value)


async def test_an_endpoint_that_does_not_answer_times_out() -> None:
    async with serving(lambda body: None) as endpoint, opened(endpoint.url, 0.1) as embedder:
        with pytest.raises(Unavailable) as caught:
            await embedder.embed(["x"])
        assert caught.value.reason == "EMBEDDER_UNAVAILABLE"


async def test_an_endpoint_that_is_not_there_is_unavailable() -> None:
    async with serving(vectors) as endpoint:
        url = endpoint.url
    async with opened(url) as embedder:
        with pytest.raises(Unavailable):
            await embedder.embed(["x"])


async def test_brain_opens_the_embedder_that_is_configured() -> None:
    config = BrainConfig(
        brain_embedder="openai",
        brain_embedding_base_url="http://127.0.0.1:1/v1",
        brain_embedding_api_key=Secret("k-123"),
        brain_embedding_model="m",
        brain_embedding_dimensions=8,
    )
    async with open_embedder(Brain(config=config)) as embedder:
        assert (embedder.name, embedder.dimensions, embedder.costly) == ("openai:m", 8, True)
    assert "k-123" not in repr(config)
    async with open_embedder(Brain(config=BrainConfig())) as embedder:
        assert (embedder.name, embedder.dimensions) == ("hashing-v1", 384)


@pytest.mark.parametrize(
    "values",
    [
        {"brain_embedder": "openai"},
        {"brain_embedder": "magic"},
        {"brain_database_url": "postgresql://x"},
        {"brain_database_url": "mysql://x/y"},
        {"brain_database_url": "sqlite:///"},
        {"brain_embedding_dimensions": 4},
    ],
)
def test_settings_that_cannot_work_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="BRAIN_"):
        BrainConfig(**values)
