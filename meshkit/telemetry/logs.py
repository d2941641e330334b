"""Structured logs: what a program that the mesh runs writes to its standard error."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, MutableMapping
from typing import Any, TextIO

import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import Processor

from meshkit.config.journal import with_priority, writes_to_journal
from meshkit.telemetry.redaction import Redactor

_PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}
"""Syslog's, by level."""

_PREPARE: tuple[Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)


def configure(level: str, *, json: bool, secret: Iterable[str] = ()) -> None:
    """Sets up logging for this process, for the program that runs the services.

    Lines of the standard library's `logging` come out in the same form. Tracebacks never show local variables, and what
    is secret is hidden in all that is written (`meshkit.telemetry.redaction`). Where systemd's journal reads them, it
    is told their priorities.

    Args:
        level: The least severe level written.
        json: A JSON object a line, instead of text for people.
        secret: Texts that are secret.
    """
    end = _configure(level, json=json, secret=secret)
    handler = _Stderr()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_PREPARE, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *end],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)


def configure_where_none(level: str, *, json: bool, secret: Iterable[str] = ()) -> None:
    """Sets up the mesh's own lines, for a program that calls services, where it has not set up structlog itself.

    Else they would go to standard output, among what the program prints, with what is secret in them.
    """
    if not structlog.is_configured():
        _configure(level, json=json, secret=secret)


def _configure(level: str, *, json: bool, secret: Iterable[str]) -> tuple[Processor, ...]:
    """Sets up structlog; returns how lines end."""
    tell, render = _as_json() if json else _as_text()
    end = (tell, Redactor(secret), _for_journal(render) if writes_to_journal() else render)
    structlog.configure(
        processors=[*_PREPARE, *end],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: structlog.PrintLogger(
            sys.stderr
        ),  # a live table may have put itself in between
        cache_logger_on_first_use=False,
    )
    return end


def set_level(level: str) -> None:
    """Sets the least severe level that this process writes, after `configure`, and leaves all else as it is."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level))
    logging.getLogger().setLevel(level)


def hide(secret: Iterable[str]) -> None:
    """Has texts hidden that have become secret after `configure`."""
    for processor in structlog.get_config()["processors"]:
        if isinstance(processor, Redactor):
            processor.learn(secret)


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what standard error is at that moment: a live table may have put itself in between."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """Standard error."""
        return sys.stderr


def _for_journal(render: Processor) -> Processor:
    def rendered(logger: Any, method: str, facts: MutableMapping[str, Any]) -> str:
        priority = _PRIORITIES.get(facts.get("level", ""), _PRIORITIES["info"])
        return with_priority(str(render(logger, method, facts)), priority)

    return rendered


def _as_json() -> tuple[Processor, Processor]:
    without_locals = ExceptionDictTransformer(show_locals=False)
    return structlog.processors.ExceptionRenderer(without_locals), structlog.processors.JSONRenderer()


def _as_text() -> tuple[Processor, Processor]:
    return structlog.processors.format_exc_info, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
