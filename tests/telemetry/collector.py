"""An OTLP endpoint that keeps what it is sent, or behaves badly."""

from __future__ import annotations

import gzip
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Seen:
    """A span as it arrived."""

    service: str
    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    status: int
    message: str
    facts: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]
    resource: dict[str, Any]


SERVER, CLIENT, INTERNAL = 2, 3, 1
UNSET, ERROR = 0, 2


@dataclass
class Collector:
    """Listens on a port of loopback.

    Attributes:
        silent: Whether it takes requests and never answers.
        requests: How many it got.
        spans: What it was sent.
        metrics: The newest of each metric, by service and name.
    """

    silent: bool = False
    requests: int = 0
    spans: list[Seen] = field(default_factory=list)
    metrics: dict[tuple[str, str], Any] = field(default_factory=dict)
    _closing: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector.requests += 1
                if collector.silent:
                    collector._closing.wait()
                    return
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.take(self.path, body)
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def take(self, path: str, body: bytes) -> None:
        if path == "/v1/traces":
            for each in ExportTraceServiceRequest.FromString(body).resource_spans:
                resource = facts_of(each.resource.attributes)
                self.spans += [_seen(span, resource) for scope in each.scope_spans for span in scope.spans]
        elif path == "/v1/metrics":
            for found in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                service = facts_of(found.resource.attributes)["service.name"]
                for scope in found.scope_metrics:
                    self.metrics.update({(service, metric.name): metric for metric in scope.metrics})

    def one(self, service: str, kind: int, method: str = "") -> Seen:
        """The one span of that kind."""
        found = [
            span
            for span in self.spans
            if (span.service, span.kind) == (service, kind) and span.name.endswith(method)
        ]
        assert len(found) == 1, f"{len(found)} spans of {service}: {[span.name for span in self.spans]}"
        return found[0]


def _seen(span: Any, resource: dict[str, Any]) -> Seen:
    return Seen(
        service=resource["service.name"],
        name=span.name,
        kind=span.kind,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        status=span.status.code,
        message=span.status.message,
        facts=facts_of(span.attributes),
        events=[(event.name, facts_of(event.attributes)) for event in span.events],
        resource=resource,
    )


def facts_of(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
