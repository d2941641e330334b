"""Settings of telemetry: each wrong value is told with what to write instead."""

import pytest

from meshkit.config import ConfigError, SharedConfig


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "it is no http:// or https:// URL"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://", "it names no host"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:99999", "its port is not within"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317", "that of OTLP over gRPC"),
        ("OTEL_ENABLED", "perhaps", "true or false"),
        ("METRICS_PORT", "-1", "at least 0"),
        ("METRICS_HOST", "here:80", "is not a host"),
        ("LOG_ACCESS_RATE", "-5", "at least 0"),
    ],
)
def test_a_wrong_value_is_told(name: str, value: str, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SharedConfig.load({name: value})
    (problem,) = caught.value.problems
    assert problem.setting == name
    assert what in str(problem)


def test_a_right_endpoint_is_taken() -> None:
    found = SharedConfig.load({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector:4318/"})
    assert found.otel_exporter_otlp_endpoint == "https://collector:4318"
