"""A receiver of traces: takes what OTLP/HTTP and Zipkin exporters send, and knows how spans belong together."""

from __future__ import annotations

import gzip
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue


@dataclass(frozen=True)
class ReceivedSpan:
    """One span as it came. `parent` is empty where it has none."""

    trace: str
    id: str
    parent: str
    name: str
    kind: str
    service: str
    attributes: dict[str, Any] = field(hash=False)


class Receiver:
    """An HTTP server on a free port of loopback."""

    def __init__(self) -> None:
        self.spans: list[ReceivedSpan] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver.spans += _zipkin(body) if "spans" in self.path else _otlp(body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def children_of(self, span: ReceivedSpan) -> list[ReceivedSpan]:
        """Return the spans right below one."""
        return [each for each in self.spans if (each.trace, each.parent) == (span.trace, span.id)]


def _otlp(body: bytes) -> list[ReceivedSpan]:
    found = []
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        about = {pair.key: _value(pair.value) for pair in resource.resource.attributes}
        for scope in resource.scope_spans:
            found += [
                ReceivedSpan(
                    trace=span.trace_id.hex(),
                    id=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    name=span.name,
                    kind=["", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"][span.kind],
                    service=about["service.name"],
                    attributes={pair.key: _value(pair.value) for pair in span.attributes},
                )
                for span in scope.spans
            ]
    return found


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    return getattr(value, kind) if kind else None


def _zipkin(body: bytes) -> list[ReceivedSpan]:
    return [
        ReceivedSpan(
            trace=span["traceId"].rjust(32, "0"),
            id=span["id"],
            parent=span.get("parentId", ""),
            name=span["name"],
            kind=span.get("kind", "INTERNAL"),
            service=span["localEndpoint"]["serviceName"],
            attributes=span.get("tags", {}),
        )
        for span in json.loads(body)
    ]
