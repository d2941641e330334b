"""Whether there is what `OTEL_ENABLED` needs: OpenTelemetry's SDK is an extra, loaded by those alone who use it."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from meshkit.config import ConfigError, Problem

if TYPE_CHECKING:
    from meshkit.config import SharedConfig
    from meshkit.telemetry.otlp import OpenTelemetry

_NEEDED = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter")


def missing_sdk(config: SharedConfig) -> Problem | None:
    """The problem that telemetry is asked for, and cannot be had; else None."""
    if not config.otel_enabled or all(_there(name) for name in _NEEDED):
        return None
    mend = "install it with `pip install 'meshkit[otel]'`, or set OTEL_ENABLED to false"
    return Problem("OTEL_ENABLED", "OpenTelemetry's SDK, or its exporter, is not installed", mend)


def open_telemetry(config: SharedConfig, name: str, instance_id: str = "") -> OpenTelemetry | None:
    """The SDK for a service or a script; None where it is not asked for, and then nothing of it is loaded.

    Args:
        config: Its settings.
        name: Its name.
        instance_id: Id of the instance; empty for a script.

    Raises:
        ConfigError: It is asked for, and not installed.
    """
    if not config.otel_enabled:
        return None
    if problem := missing_sdk(config):
        raise ConfigError([problem])
    from meshkit.telemetry.otlp import OpenTelemetry

    return OpenTelemetry(config, name, instance_id)


def _there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # a package that it would be in
        return False
