"""OpenTelemetry's traces: of a request its operations, statements, calls of the storage, and the jobs that it enqueued.

Only what has a trace around it is traced: a statement of a poll, or of the queue, begins none. Until a process says
`traced`, and where no collector is configured, all of this is a look at a None.

Spans carry no bodies, variables, headers, paths, keys, addresses or messages of errors: names, routes, statuses, ids of
requests, and the text of statements, whose values are parameters and stay out.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final

from app.calls import NAME_CHARACTERS

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, SpanKind

QUEUE: Final = 4096  # spans that wait to be sent; those that come when it is full are lost, and nothing else
BATCH: Final = 512
MOST_CHARACTERS: Final = 4_000  # of one thing that is told: a statement has 2,000
SEND_EVERY_MS: Final = 1000
SEND_SECONDS: Final = 5.0  # that one batch is tried to be sent
TELL_EVERY: Final = 60.0  # seconds, that a collector is away
FLUSH_SECONDS: Final = 3.0  # that a stop waits for what is still to be sent
STATEMENT_CHARACTERS: Final = 2000
HEADER: Final = "traceparent"  # https://www.w3.org/TR/trace-context/


class _Tracer:
    """OpenTelemetry, imported where it is configured alone: it takes a tenth of a second."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry import trace  # noqa: PLC0415
        from opentelemetry.trace import status  # noqa: PLC0415
        from opentelemetry.trace.propagation import tracecontext  # noqa: PLC0415

        self._api = trace
        self._tracer = provider.get_tracer("heirloom")
        self._format = tracecontext.TraceContextTextMapPropagator()
        self._failed = status.Status(status.StatusCode.ERROR)
        self._nothing = trace.set_span_in_context(trace.INVALID_SPAN)
        self.kinds = trace.SpanKind

    def current(self) -> Span:
        return self._api.get_current_span()

    @contextmanager
    def span(
        self,
        name: str,
        kind: SpanKind,
        attributes: Mapping[str, Any],
        parent: str | None = None,
        *,
        alone: bool = False,
    ) -> Iterator[Span]:
        """Below the `parent` that is named, or else below what is current; `alone`, below nothing."""
        context = None
        if parent or alone:
            context = self._format.extract({HEADER: parent or ""}, self._nothing)
        span = self._tracer.start_span(name, context, kind, attributes)
        # What an exception says may quote what is secret: its class has to do.
        with self._api.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            try:
                yield span
            except Exception as error:
                self.fail(span, type(error).__name__)
                raise

    @contextmanager
    def leaf(self, name: str, attributes: Mapping[str, Any]) -> Iterator[None]:
        """Of a call that nothing of ours is below; an async generator may hold it while others run."""
        span = self._tracer.start_span(name, None, self.kinds.CLIENT, attributes)
        try:
            yield
        except Exception as error:
            self.fail(span, type(error).__name__)
            raise
        finally:
            span.end()

    def fail(self, span: Span, why: str) -> None:
        span.set_attribute("error.type", why)
        span.set_status(self._failed)

    def parent_header(self) -> str | None:
        carrier: dict[str, str] = {}
        self._format.inject(carrier)
        return carrier.get(HEADER)

    def nothing(self) -> AbstractContextManager[Any]:
        return self._api.use_span(self._api.INVALID_SPAN)


_tracer: _Tracer | None = None


@contextmanager
def traced(endpoint: str | None, ratio: float, role: str) -> Iterator[None]:
    """This process sends traces to a collector, where there is one, as long as the block lasts."""
    global _tracer  # noqa: PLW0603 - what is traced is the process's
    if endpoint is None:
        yield
        return
    provider = _provider(endpoint, ratio, role)
    _tracer = _Tracer(provider)
    try:
        yield
    finally:
        _tracer = None
        # Beside us, and not for longer than that: it would wait for a collector that is away.
        flushing = threading.Thread(target=provider.shutdown, daemon=True)
        flushing.start()
        flushing.join(FLUSH_SECONDS)


def _provider(endpoint: str, ratio: float, role: str) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import SpanLimits, TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio  # noqa: PLC0415

    provider = TracerProvider(
        span_limits=SpanLimits(max_attribute_length=MOST_CHARACTERS),
        resource=Resource.create({"service.name": f"heirloom-{role}"}),
        sampler=ParentBasedTraceIdRatio(ratio),
        shutdown_on_exit=False,  # `traced` does
    )
    exporter = OTLPSpanExporter(f"{endpoint}/v1/traces", timeout=SEND_SECONDS)
    logger = logging.getLogger(OTLPSpanExporter.__module__)
    logger.setLevel(logging.ERROR)  # not of each try
    logger.addFilter(_Seldom())
    provider.add_span_processor(BatchSpanProcessor(exporter, QUEUE, SEND_EVERY_MS, BATCH))
    return provider


class _Seldom(logging.Filter):
    """A collector that is away is told of, and not with every batch."""

    def __init__(self) -> None:
        super().__init__()
        self._due = float("-inf")

    def filter(self, _: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now < self._due:
            return False
        self._due = now + TELL_EVERY
        return True


def trace_id() -> str | None:
    """Of the trace at hand, in hex, if it is sent; for the log."""
    if _tracer is None:
        return None
    context = _tracer.current().get_span_context()
    return f"{context.trace_id:032x}" if context.trace_flags.sampled else None


def parent_header() -> str | None:
    """What continues the trace at hand elsewhere: in a job, for one."""
    return _tracer.parent_header() if _tracer is not None and trace_id() else None


class Request:
    """The span of a request, of which the answer is known at its end."""

    def __init__(self, tracer: _Tracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span

    def answered(self, method: str, route: str | None, status: int | None, request_id: str | None) -> None:
        self._span.update_name(f"{method} {route}" if route else method)
        told = {"http.route": route, "http.response.status_code": status, "heirloom.request_id": request_id}
        self._span.set_attributes({name: value for name, value in told.items() if value is not None})
        if status is not None and status >= 500:
            self._tracer.fail(self._span, str(status))


@contextmanager
def request(method: str, parent: str | None) -> Iterator[Request | None]:
    """`parent` is a `traceparent` of somebody who may say what is traced."""
    if _tracer is None:
        yield None
        return
    with _tracer.span(method, _tracer.kinds.SERVER, {"http.request.method": method}, parent, alone=True) as span:
        yield Request(_tracer, span)


class Operation:
    def __init__(self, tracer: _Tracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span

    def ended(self, name: str | None, kind: str, outcome: str) -> None:
        name = name and name[:NAME_CHARACTERS]  # the client's choice
        self._span.update_name(f"{kind} {name}" if name else kind)
        self._span.set_attribute("graphql.operation.type", kind)
        if name:
            self._span.set_attribute("graphql.operation.name", name)
        if outcome != "ok":
            self._tracer.fail(self._span, outcome)


def operation(*, on_socket: bool) -> AbstractContextManager[Operation | None]:
    """Within its request; on a socket, which may be open for days, it begins a trace."""
    return nullcontext() if _tracer is None else _operation(_tracer, alone=on_socket)


@contextmanager
def _operation(tracer: _Tracer, *, alone: bool) -> Iterator[Operation]:
    kind = tracer.kinds.SERVER if alone else tracer.kinds.INTERNAL
    with tracer.span("operation", kind, {}, alone=alone) as span:
        yield Operation(tracer, span)


def statement(verb: str, text: str) -> AbstractContextManager[Any]:
    if _tracer is None or not trace_id():
        return nullcontext()
    told = {"db.system.name": "postgresql", "db.operation.name": verb, "db.query.text": text[:STATEMENT_CHARACTERS]}
    return _tracer.leaf(verb, told)


def storage_call(storage: str, operation: str) -> AbstractContextManager[Any]:
    if _tracer is None or not trace_id():
        return nullcontext()
    return _tracer.leaf(f"storage {operation}", {"heirloom.storage": storage})


def job(entrypoint: str, parent: str | None) -> AbstractContextManager[Any]:
    """Below what enqueued it. A job that nothing traced has enqueued is left alone too."""
    if _tracer is None or parent is None:
        return nullcontext()
    return _tracer.span(f"job {entrypoint}", _tracer.kinds.CONSUMER, {"heirloom.job": entrypoint}, parent)


@contextmanager
def untraced() -> Iterator[None]:
    """For what goes on for hours, such as a subscription: a trace would grow with it."""
    if _tracer is None:
        yield
        return
    with _tracer.nothing():
        yield
