"""The innermost layers of an outgoing call: pick an endpoint for the attempt, send it there, learn from how it went."""

from __future__ import annotations

import asyncio

from meshkit.balancing.endpoint import Flight
from meshkit.balancing.policy import Policy
from meshkit.balancing.pool import EndpointPool
from meshkit.errors import Cancelled, MeshError, Unavailable
from meshkit.pipeline import Exchange, Handler, Middleware


def balanced(pool: EndpointPool, policy: Policy | None = None) -> Middleware:
    """The layer that picks an endpoint for each attempt, and notes how it went.

    Args:
        pool: The endpoints of the service that is called.
        policy: How to choose; as the pool does by default.
    """

    def wrap(next: Handler) -> Handler:
        async def picked(exchange: Exchange) -> None:
            endpoint = await pool.acquire(exchange, policy)
            exchange.endpoint = endpoint
            exchange.tried.add(endpoint.instance.instance_id)
            number, flight = pool.begin(endpoint, exchange)
            failure: MeshError | None = None
            settle = exchange.settle
            if exchange.method.streams_replies:

                def answered() -> object:
                    if (stalled := _stalled(flight)) is not None:
                        raise stalled  # it was given up a moment ago, and nobody has seen this reply
                    pool.answered(endpoint, number)
                    return settle()

                exchange.settle = answered
            try:
                await next(exchange)
            except MeshError as error:
                if error is exchange.own_failure:
                    failure = Cancelled("the caller's own requests failed")
                    raise
                failure = error = _stalled(flight) or error
                if isinstance(error, Unavailable) and error.unprocessed:
                    pool.rest(endpoint)
                raise error
            except asyncio.CancelledError:
                failure = Cancelled("the caller gave the call up")
                if (stalled := _stalled(flight)) is not None and not _cancelled():
                    raise stalled from None
                raise
            finally:
                exchange.settle = settle
                pool.end(endpoint, number, flight, failure, policy)

        return picked

    return wrap


async def attempt(exchange: Exchange) -> None:
    """The innermost handler of an outgoing call: sends it over the link that was picked."""
    await exchange.endpoint.link.attempt(exchange)


def _stalled(flight: Flight) -> MeshError | None:
    """What an attempt failed with that the pool gave up."""
    if not flight.abandoned:
        return None
    error = Unavailable("the instance does not answer", reason="STALLED")
    error.instance = flight.exchange.endpoint.instance.instance_id
    return error


def _cancelled() -> bool:
    """Whether it is the caller's own task that was cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
