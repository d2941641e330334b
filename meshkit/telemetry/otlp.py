"""OpenTelemetry's SDK, set up for one service or script: traces and metrics go to an OTLP endpoint over HTTP.

Loaded only where `OTEL_ENABLED` is set. What is no setting of the mesh is the SDK's own to read from the environment:
samplers (`OTEL_TRACES_SAMPLER`), queues (`OTEL_BSP_…`), intervals (`OTEL_METRIC_EXPORT_INTERVAL`), headers and timeouts
(`OTEL_EXPORTER_OTLP_…`), further attributes (`OTEL_RESOURCE_ATTRIBUTES`).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    PeriodicExportingMetricReader,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.export import Histogram as HistogramData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from meshkit.telemetry.calls import BOUNDS, Histogram
from meshkit.telemetry.figures import Collect, Family, Labels, merged
from meshkit.telemetry.tracing import SCOPE, TraceIds, Tracing

if TYPE_CHECKING:
    from meshkit.config import SharedConfig

log = structlog.get_logger("meshkit.telemetry")

LAST_S = 3.0
"""Seconds that the last spans and figures have to be sent."""

COLLECT_S = 5.0
"""Seconds that the event loop has to give its figures; it is late by more than that only when it is stuck."""


class Reachable:
    """Tells the log when an endpoint stops taking what is sent, and when it takes it again; once each.

    Args:
        endpoint: The endpoint.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._well = True
        self._left = False
        self._lock = threading.Lock()

    def leave(self) -> None:
        """Tells no more: what is sent from now on is not meant to arrive."""
        self._left = True

    def note(self, well: bool) -> None:
        """Takes note of whether it took something."""
        with self._lock:
            changed, self._well = well != self._well and not self._left, well
        if changed and well:
            log.info("telemetry is taken again", endpoint=self._endpoint)
        elif changed:
            log.warning(
                "telemetry is not taken, and is lost until it is: set OTEL_EXPORTER_OTLP_ENDPOINT to an endpoint of "
                "OTLP over HTTP, or OTEL_ENABLED to false",
                endpoint=self._endpoint,
            )


class Spans(SpanExporter):
    """Sends spans.

    Args:
        exporter: Sends them.
        reachable: Is told whether they were taken.
    """

    def __init__(self, exporter: SpanExporter, reachable: Reachable) -> None:
        self._exporter = exporter
        self._reachable = reachable

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Sends some."""
        result = self._exporter.export(spans)
        self._reachable.note(result is SpanExportResult.SUCCESS)
        return result

    def shutdown(self) -> None:
        """Sends no more."""
        self._exporter.shutdown()


class Figures(MetricExporter):
    """Sends the mesh's own figures, together with those of instruments that others made with the SDK.

    Args:
        exporter: Sends them.
        reachable: Is told whether they were taken.
        resource: What they are of.
    """

    def __init__(self, exporter: OTLPMetricExporter, reachable: Reachable, resource: Resource) -> None:
        super().__init__()
        self._exporter = exporter
        self._reachable = reachable
        self._resource = resource
        self._since = time.time_ns()
        self.sources: list[Collect] = []

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        """Sends what there is."""
        families = merged(({}, collect()) for collect in list(self.sources))
        ours = converted(families, self._since, time.time_ns())
        scopes = [ScopeMetrics(InstrumentationScope(SCOPE), ours, "")]
        for theirs in metrics_data.resource_metrics:  # of the same resource, which may come once only
            scopes.extend(theirs.scope_metrics)
        whole = MetricsData([ResourceMetrics(self._resource, scopes, "")])
        result = self._exporter.export(whole, timeout_millis)
        self._reachable.note(result is MetricExportResult.SUCCESS)
        return result

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Nothing is kept here."""
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Sends no more."""
        self._exporter.shutdown()


class OpenTelemetry:
    """The SDK for one service or script.

    Args:
        config: Its settings.
        name: Its name.
        instance_id: Id of the instance; empty for a script.

    Attributes:
        tracing: Makes its spans.
        tracer_provider: The SDK's provider of tracers.
        meter_provider: The SDK's provider of meters.
    """

    def __init__(self, config: SharedConfig, name: str, instance_id: str = "") -> None:
        resource = resource_of(config, name, instance_id)
        endpoint = config.otel_exporter_otlp_endpoint
        reachable = self._reachable = Reachable(endpoint or "http://localhost:4318")
        _leave_telling_to_us()
        self._spans = Spans(OTLPSpanExporter(f"{endpoint}/v1/traces" if endpoint else None), reachable)
        exporter = OTLPMetricExporter(f"{endpoint}/v1/metrics" if endpoint else None)
        self._figures = Figures(exporter, reachable, resource)
        self.tracer_provider = TracerProvider(
            resource=resource, shutdown_on_exit=False, id_generator=TraceIds()
        )
        self.tracer_provider.add_span_processor(BatchSpanProcessor(self._spans))
        self._reader = PeriodicExportingMetricReader(self._figures)
        self.meter_provider = MeterProvider([self._reader], resource, shutdown_on_exit=False)
        _keep_awake(self.meter_provider)
        self.tracing = Tracing(
            self.tracer_provider, config.grpc_advertise.rpartition(":")[0] or config.grpc_host
        )
        self._closed = False

    def measure(self, collect: Collect) -> None:
        """Begins to send figures.

        Args:
            collect: Gives them; called on the event loop that runs now.
        """
        loop = asyncio.get_running_loop()

        async def gather() -> list[Family]:
            return list(collect())

        def from_afar() -> list[Family]:
            if loop.is_closed():
                return []
            coroutine = gather()
            try:
                return asyncio.run_coroutine_threadsafe(coroutine, loop).result(COLLECT_S)
            except (TimeoutError, RuntimeError):
                coroutine.close()
                return []

        self._figures.sources.append(from_afar)

    def measure_threadsafe(self, collect: Collect) -> Callable[[], Awaitable[None]]:
        """Begins to send figures that may be read from any thread.

        Args:
            collect: Gives them.

        Returns:
            Ends it.
        """
        self._figures.sources.append(collect)

        async def end() -> None:
            with suppress(ValueError):  # all of it has ended
                self._figures.sources.remove(collect)

        return end

    def share(self) -> None:
        """Makes it what the code of this process gets that asks OpenTelemetry's API for a tracer or a meter."""
        trace.set_tracer_provider(self.tracer_provider)
        metrics.set_meter_provider(self.meter_provider)

    async def close(self) -> None:
        """Sends what is left, if that is done in a moment, and ends."""
        if self._closed:
            return
        self._closed = True
        await _in_time(self._flush, LAST_S)
        self._reachable.leave()
        self._spans.shutdown()  # ends what waits for an endpoint that does not answer
        self._figures.shutdown()
        await _in_time(self._shut_down, LAST_S)

    def _flush(self) -> None:
        self.tracer_provider.force_flush()
        self._reader.force_flush(int(LAST_S * 1000))

    def _shut_down(self) -> None:
        self._figures.sources.clear()
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()


def resource_of(config: SharedConfig, name: str, instance_id: str) -> Resource:
    """Who sends: OpenTelemetry's attributes of a service, its zone as that of a cloud."""
    facts = {
        "service.name": name or config.service_name or "client",
        "service.version": config.service_version,
        "service.namespace": config.namespace,
        "service.instance.id": instance_id,
        "cloud.availability_zone": config.zone,
        "deployment.environment.name": config.env.value,
    }
    return Resource.create({name: value for name, value in facts.items() if value})


def converted(families: Iterable[Family], since: int, now: int) -> list[Metric]:
    """Figures in the SDK's form, whose exporters put it on the wire.

    Args:
        families: The figures.
        since: When counting began, in nanoseconds of Unix time.
        now: When they were read, likewise.
    """
    return [_metric(family, since, now) for family in families if family.samples]


def _metric(family: Family, since: int, now: int) -> Metric:
    whole = AggregationTemporality.CUMULATIVE
    if family.kind == "histogram":
        points = [_distribution(labels, value, since, now) for labels, value in family.samples]
        return Metric(family.name, family.help, family.unit, HistogramData(points, whole))
    numbers = [
        NumberDataPoint(dict(labels), since, now, value)
        for labels, value in family.samples
        if not isinstance(value, Histogram)
    ]
    data = Gauge(numbers) if family.kind == "gauge" else Sum(numbers, whole, is_monotonic=True)
    return Metric(family.name, family.help, family.unit, data)


def _distribution(labels: Labels, value: float | Histogram, since: int, now: int) -> HistogramDataPoint:
    assert isinstance(value, Histogram)
    buckets = list(value.buckets)
    unknown: Any = None  # which was the least and the greatest is not kept; on the wire they may be missing
    return HistogramDataPoint(
        dict(labels), since, now, sum(buckets), value.total, buckets, BOUNDS, unknown, unknown
    )


def _keep_awake(provider: MeterProvider) -> None:
    """The SDK sends nothing where it has no instrument of its own, and ours would be left behind."""

    def alive(_: CallbackOptions) -> list[Observation]:
        return [Observation(1)]

    meter = provider.get_meter(f"{SCOPE}.sdk")  # each scope may come once only, too
    meter.create_observable_gauge("meshkit.up", [alive], "{instance}", "1 while it sends.")


def _leave_telling_to_us() -> None:
    """The SDK would tell the log of each batch that is lost; `Reachable` tells once."""
    for name in ("opentelemetry.exporter.otlp", "opentelemetry.sdk._shared_internal"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


async def _in_time(work: Callable[[], object], seconds: float) -> None:
    """Does work that blocks, and waits for it no longer than that: its thread does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def run() -> None:
        try:
            work()
        except Exception:
            log.warning("telemetry could not be sent at the end", exc_info=True)
        try:
            loop.call_soon_threadsafe(done.set)
        except RuntimeError:
            return  # nobody waits any more

    threading.Thread(target=run, name="meshkit telemetry", daemon=True).start()
    try:
        async with asyncio.timeout(seconds):
            await done.wait()
    except TimeoutError:
        log.debug("telemetry was cut short as it ended")
