"""The caller's stream of requests, for as many attempts as it takes."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from meshkit.pipeline import END
from meshkit.transport.requests import Requests


def same(message: bytes) -> bytes:
    return message


async def take(requests: Requests, count: int) -> list[Any]:
    return [await asyncio.wait_for(requests.receive(), 5) for _ in range(count)]


async def test_what_was_taken_is_given_again_from_the_start() -> None:
    async with Requests([b"a", b"b", b"c"], same) as requests:
        assert await take(requests, 2) == [b"a", b"b"]
        assert requests.rewind()
        assert await take(requests, 4) == [b"a", b"b", b"c", END]
        assert requests.rewind()
        assert await take(requests, 5) == [b"a", b"b", b"c", END, END]


async def test_more_than_the_bound_is_not_kept() -> None:
    async with Requests([b"x" * 100] * 3, same, kept_bytes=400) as requests:
        assert len(await take(requests, 2)) == 2
        assert requests.rewind()
        assert len(await take(requests, 3)) == 3
        assert not requests.rewind()
        assert await take(requests, 1) == [END]


async def test_empty_messages_without_end_are_not_kept_without_end() -> None:
    async def beats() -> AsyncIterator[bytes]:
        while True:
            yield b""

    async with Requests(beats(), same, kept_bytes=6400) as requests:
        await take(requests, 101)
        assert not requests.rewind()
        assert not requests._kept


async def test_the_source_is_read_no_further_than_one_message_ahead() -> None:
    given: list[bytes] = []

    async def source() -> AsyncIterator[bytes]:
        for message in (b"a", b"b", b"c"):
            given.append(message)
            yield message

    async with Requests(source(), same) as requests:
        await take(requests, 1)
        for _ in range(10):
            await asyncio.sleep(0)
        assert given == [b"a", b"b"]


async def test_a_failed_source_fails_each_attempt_and_is_not_tried_again() -> None:
    async def source() -> AsyncIterator[bytes]:
        yield b"a"
        raise ValueError("mine")

    async with Requests(source(), same) as requests:
        assert await take(requests, 1) == [b"a"]
        with pytest.raises(ValueError, match="mine"):
            await take(requests, 1)
        assert not requests.rewind()


async def test_an_invalid_state_of_the_sources_own_is_its_failure() -> None:
    async def source() -> AsyncIterator[bytes]:
        yield b"a"
        raise asyncio.InvalidStateError("mine")

    async with Requests(source(), same) as requests:
        await take(requests, 1)
        with pytest.raises(asyncio.InvalidStateError, match="mine"):
            await take(requests, 1)


async def test_whoever_puts_is_told_when_the_call_is_over() -> None:
    requests = Requests(None, same)
    putting = [asyncio.ensure_future(requests.put(b"x")) for _ in range(3)]
    await asyncio.sleep(0)
    requests.close()
    outcomes = await asyncio.gather(*putting, return_exceptions=True)
    assert all(outcome is None or isinstance(outcome, asyncio.InvalidStateError) for outcome in outcomes)
    with pytest.raises(asyncio.InvalidStateError):
        await requests.put(b"y")


async def test_equal_messages_of_several_writers_all_arrive() -> None:
    requests = Requests(None, same)
    putting = [asyncio.ensure_future(requests.put(b"")) for _ in range(10)]
    assert await take(requests, 10) == [b""] * 10
    await asyncio.wait_for(asyncio.gather(*putting), 5)
    await requests.put(END)
    assert await take(requests, 1) == [END]
