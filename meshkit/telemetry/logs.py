"""Structured logs: what a program that the mesh runs writes to its standard error."""

from __future__ import annotations

import logging
import sys

import structlog


def configure(level: str, *, json: bool) -> None:
    """Sets up logging for this process. A library never does that; the program that runs the services does.

    Args:
        level: The least severe level written.
        json: A JSON object a line, instead of text for people.
    """
    shared = (
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    )
    render: tuple[structlog.typing.Processor, ...]
    if json:
        render = (structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer())
    else:
        colors = sys.stderr.isatty()
        render = (
            structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback),
        )
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(
        stream=sys.stderr, level=level, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
