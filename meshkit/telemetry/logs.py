"""Structured logs: what a program that the mesh runs writes to its standard error."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import Processor


def configure(level: str, *, json: bool) -> None:
    """Sets up logging for this process. A library never does that; the program that runs the services does.

    Lines of the standard library's `logging` come out in the same form. Tracebacks never show local variables.

    Args:
        level: The least severe level written.
        json: A JSON object a line, instead of text for people.
    """
    prepare: tuple[Processor, ...] = (
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    )
    render = _as_json() if json else _as_text()
    structlog.configure(
        processors=[*prepare, *render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: structlog.PrintLogger(
            sys.stderr
        ),  # a live table may have put itself in between
        cache_logger_on_first_use=False,
    )
    handler = _Stderr()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*prepare, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)


def set_level(level: str) -> None:
    """Sets the least severe level that this process writes, after `configure`, and leaves all else as it is."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level))
    logging.getLogger().setLevel(level)


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what standard error is at that moment: a live table may have put itself in between."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """Standard error."""
        return sys.stderr


def _as_json() -> tuple[Processor, ...]:
    without_locals = ExceptionDictTransformer(show_locals=False)
    return structlog.processors.ExceptionRenderer(without_locals), structlog.processors.JSONRenderer()


def _as_text() -> tuple[Processor, ...]:
    colors = sys.stderr.isatty()
    return (structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback),)
