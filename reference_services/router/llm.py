"""Answers through an OpenAI-compatible endpoint: timeouts, retries, and what its failures are called here.

An attempt that fails before its first token may be repeated; one that fails later may not, for its text was
passed on. No text of the endpoint's errors goes to the caller or into a log: it may quote the prompt,
or a key.
"""

from __future__ import annotations

import asyncio
import importlib
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meshkit import DeadlineExceeded, FailedPrecondition, MeshError, Unavailable
from reference_services.router.answering import Draft, Finished, Piece, Question
from reference_services.router.model import Llm, Usage
from reference_services.router.prompt import messages

if TYPE_CHECKING:
    from openai import AsyncOpenAI, AsyncStream
    from openai.types.chat import ChatCompletionChunk

MAX_ANSWER = 100_000
"""Characters of an answer; the rest is cut off."""

_FIRST_BACKOFF = 0.25
_MAX_BACKOFF = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How patient the router is with its endpoint.

    Attributes:
        timeout: Seconds for an answer, all attempts included.
        first_token_timeout: Seconds until an attempt must have brought its first token.
        max_retries: Further attempts after one that failed before its first token.
    """

    timeout: float = 60.0
    first_token_timeout: float = 15.0
    max_retries: int = 2


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible endpoint, ready to be asked; shared by all answers.

    Attributes:
        client: The openai client, without retries and timeouts of its own.
        model: The model to ask for.
        limits: How patient to be.
    """

    client: AsyncOpenAI
    model: str
    limits: Limits


@asynccontextmanager
async def open_endpoint(
    base_url: str, api_key: str, model: str, limits: Limits
) -> AsyncGenerator[Endpoint, None]:
    """Makes an endpoint ready, and closes its connections at the end. It is not asked anything yet.

    Raises:
        FailedPrecondition: The openai package is missing (`LLM_EXTRA_MISSING`), or no model is named
            (`LLM_NOT_CONFIGURED`).
    """
    if not model:
        raise FailedPrecondition(
            "ROUTER_LLM_BASE_URL is set, and ROUTER_LLM_MODEL is not: name the model to ask for.",
            reason="LLM_NOT_CONFIGURED",
        )
    openai = await asyncio.to_thread(_import_openai)
    client = openai.AsyncOpenAI(base_url=base_url, api_key=api_key or "none", max_retries=0, timeout=None)
    async with client:
        yield Endpoint(client, model, limits)


def _import_openai() -> Any:
    try:
        return importlib.import_module("openai")
    except ImportError:
        raise FailedPrecondition(
            "The LLM endpoint needs the openai package: pip install 'meshkit[llm]'.",
            reason="LLM_EXTRA_MISSING",
        ) from None


class LlmAnswerer:
    """Answers by asking a model.

    Args:
        endpoint: Whom to ask.
        settings: What the agent wants of it.
        clock: A monotonic clock, in seconds.
        sleep: Waits that many seconds between attempts.
    """

    external = True

    def __init__(
        self,
        endpoint: Endpoint,
        settings: Llm | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._endpoint = endpoint
        self._settings = settings or Llm()
        self._clock = clock
        self._sleep = sleep

    @property
    def name(self) -> str:
        """`llm/` and the model's name."""
        return f"llm/{self._endpoint.model}"

    async def answer(self, question: Question) -> AsyncGenerator[Draft, None]:
        """See `Answerer.answer`.

        Raises:
            Unavailable: The endpoint cannot be reached, fails, or broke off (`LLM_UNAVAILABLE`).
            FailedPrecondition: It refuses the request, as for a wrong key or model (`LLM_REJECTED`).
            DeadlineExceeded: It was too slow (`LLM_FIRST_TOKEN_TIMEOUT`, `LLM_TIMEOUT`).
        """
        limits = self._endpoint.limits
        until = self._clock() + min(limits.timeout, question.seconds_left)
        for attempt in range(limits.max_retries + 1):
            answer = _Attempt(self._endpoint, self._settings, question, until, self._clock)
            try:
                async with aclosing(answer.pieces()) as pieces:
                    async for piece in pieces:
                        yield piece
            except _Failure as failure:
                wait = failure.wait if failure.wait is not None else _backoff(attempt)
                last = answer.begun or not failure.repeatable or attempt == limits.max_retries
                if last or self._clock() + wait >= until:
                    raise failure.error from None  # the cause may quote what the endpoint said
                await self._sleep(wait)
            else:
                yield answer.finished(question, requests=attempt + 1)
                return


def _backoff(attempt: int) -> float:
    longest: float = min(_MAX_BACKOFF, _FIRST_BACKOFF * 2.0**attempt)
    return random.uniform(0.5, 1.0) * longest


class _Failure(Exception):
    """An attempt failed: what the caller is told, and whether another may do better."""

    def __init__(self, error: MeshError, *, repeatable: bool, wait: float | None = None) -> None:
        super().__init__(error.reason)
        self.error = error
        self.repeatable = repeatable
        self.wait = wait


class _Attempt:
    """One request to the endpoint."""

    def __init__(
        self, endpoint: Endpoint, settings: Llm, question: Question, until: float, clock: Callable[[], float]
    ) -> None:
        self._endpoint = endpoint
        self._settings = settings
        self._question = question
        self._until = until
        self._clock = clock
        self._length = 0
        self._finish = ""
        self._usage = Usage()
        self._cut = False
        self.begun = False

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        first_by = self._clock() + self._endpoint.limits.first_token_timeout
        stream: AsyncStream[ChatCompletionChunk] | None = None
        try:
            stream = await self._within(self._request(), first_by)
            while True:
                chunk = await self._within(anext(stream, None), first_by)
                if chunk is None:
                    break
                text = self._take(chunk)
                if text:
                    self.begun = True
                    yield Piece(text)
                if self._cut:
                    break
            self._check_end()
        finally:
            if stream is not None:
                await stream.close()

    def finished(self, question: Question, *, requests: int) -> Finished:
        notes = []
        if self._cut or self._finish == "length":
            notes.append("The answer was cut at its longest length.")
        usage = Usage(
            input_tokens=self._usage.input_tokens,
            output_tokens=self._usage.output_tokens,
            llm_requests=requests,
            sources=len(question.sources),
        )
        return Finished(usage=usage, notes=tuple(notes))

    def _request(self) -> Awaitable[AsyncStream[ChatCompletionChunk]]:
        settings = self._settings
        optional: dict[str, Any] = {}
        if settings.temperature is not None:
            optional["temperature"] = settings.temperature
        if settings.max_output_tokens:
            optional["max_tokens"] = settings.max_output_tokens
        chat: Any = [
            {"role": role, "content": content}
            for role, content in messages(settings.system_prompt, self._question.text, self._question.sources)
        ]
        return self._endpoint.client.chat.completions.create(
            model=self._endpoint.model,
            messages=chat,
            stream=True,
            stream_options={"include_usage": True},
            **optional,
        )

    async def _within(self, work: Awaitable[Any], first_by: float) -> Any:
        """Awaits the endpoint for no longer than may be, and gives its failures our names."""
        first = not self.begun and first_by < self._until
        try:
            async with asyncio.timeout(max(0.0, (first_by if first else self._until) - self._clock())):
                return await work
        except TimeoutError as error:
            raise _too_slow(first) from error
        except Exception as error:
            failure = _failure(error)
            failure.error.details["cause"] = type(error).__name__
            raise failure from error

    def _take(self, chunk: ChatCompletionChunk) -> str:
        try:
            if chunk.usage is not None:
                self._usage = Usage(
                    input_tokens=int(chunk.usage.prompt_tokens or 0),
                    output_tokens=int(chunk.usage.completion_tokens or 0),
                )
            text = ""
            for choice in chunk.choices or ():
                self._finish = choice.finish_reason or self._finish
                text += (choice.delta.content if choice.delta else None) or ""
        except (
            AttributeError,
            TypeError,
            ValueError,
        ) as error:  # the client does not validate what it is sent
            raise _garbage() from error
        room = MAX_ANSWER - self._length
        self._cut = len(text) > room
        self._length += min(len(text), room)
        return text[:room]

    def _check_end(self) -> None:
        if self._finish == "content_filter":
            raise _Failure(
                FailedPrecondition("The LLM endpoint refuses to answer this.", reason="LLM_REJECTED"),
                repeatable=False,
            )
        if not self.begun:
            raise _garbage()
        if not self._finish and not self._cut:
            raise _Failure(_unavailable("The LLM's answer broke off."), repeatable=True)


def _too_slow(first: bool) -> _Failure:
    if first:
        error = DeadlineExceeded("The LLM did not begin to answer in time.", reason="LLM_FIRST_TOKEN_TIMEOUT")
        return _Failure(error, repeatable=True)
    return _Failure(
        DeadlineExceeded("The LLM did not answer in time.", reason="LLM_TIMEOUT"), repeatable=False
    )


def _garbage() -> _Failure:
    error = _unavailable("The LLM endpoint answered with something that is no chat completion.")
    return _Failure(error, repeatable=True)


def _unavailable(sentence: str, **details: object) -> Unavailable:
    return Unavailable(sentence, reason="LLM_UNAVAILABLE", **details)


def _failure(error: Exception) -> _Failure:
    """What a failure of the openai client is called here."""
    import openai

    if isinstance(error, openai.APIStatusError):
        status = error.status_code
        if status in (408, 409, 429) or status >= 500:
            sentence = "The LLM endpoint has too much to do." if status == 429 else "The LLM endpoint failed."
            wait = _retry_after(error.response.headers.get("retry-after"))
            return _Failure(_unavailable(sentence, status=status), repeatable=True, wait=wait)
        rejected = FailedPrecondition(
            "The LLM endpoint refuses the request; the router's LLM settings may be wrong.",
            reason="LLM_REJECTED",
            status=status,
        )
        return _Failure(rejected, repeatable=False)
    if isinstance(error, openai.APIConnectionError):
        return _Failure(
            _unavailable("The LLM endpoint cannot be reached, or the connection broke."), repeatable=True
        )
    if isinstance(error, openai.APIError) and not isinstance(error, openai.APIResponseValidationError):
        return _Failure(_unavailable("The LLM endpoint failed."), repeatable=True)
    return _garbage()


def _retry_after(header: str | None) -> float | None:
    """Seconds that the endpoint asks to wait; None where it does not say, or says a date."""
    try:
        seconds = float(header or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < 86_400 else None
