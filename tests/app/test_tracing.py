"""One trace from a request through its operation, statements and storage to the job, seen by a collector of our own."""

from __future__ import annotations

import secrets
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import orjson
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.client import Account, Client, admitted
from tests.pictures import photograph
from tests.server import Server, running, wait_for

pytestmark = pytest.mark.xdist_group("tracing")

GATEWAY = "127.0.0.2"  # everybody else is 127.0.0.1
STOP_SECONDS = 15.0


@dataclass
class Collector:
    url: str
    bodies: list[bytes] = field(default_factory=list)
    # While it is clear, whoever sends something hears nothing.
    answers: threading.Event = field(default_factory=threading.Event)

    def spans(self, trace: str) -> list[tuple[str, Span]]:
        """With the name of the service that they are of."""
        return [
            (resource.resource.attributes[_named(resource, "service.name")].value.string_value, span)
            for body in self.bodies
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
            if span.trace_id.hex() == trace
        ]

    def all_traces(self) -> set[str]:
        return {
            span.trace_id.hex()
            for body in self.bodies
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        }


def _named(resource: object, name: str) -> int:
    attributes = resource.resource.attributes  # type: ignore[attr-defined]  # protobuf's are made at run time
    return next(index for index, each in enumerate(attributes) if each.key == name)


@contextmanager
def collecting() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path == "/v1/traces":
                heard.bodies.append(body)
            heard.answers.wait(60)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    heard = Collector(f"http://127.0.0.1:{server.server_address[1]}")
    heard.answers.set()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield heard
    finally:
        heard.answers.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def server(collector: Collector, database_dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Traces what the gateway says, and nothing else."""
    traced = {"otlp_endpoint": collector.url, "trace_ratio": 0, "trace_callers": f"{GATEWAY}/32"}
    with running(tmp_path_factory.mktemp("traced"), database_dsn, **traced) as server:  # type: ignore[arg-type]
        yield server


@pytest.fixture
async def ada(server: Server) -> AsyncIterator[Account]:
    async with admitted(server, "Ada") as ada:
        yield ada


def through_the_gateway(client: Client) -> None:
    """From now on its requests come from there."""
    transport = httpx.AsyncHTTPTransport(local_address=GATEWAY)
    client.http = httpx.AsyncClient(base_url=client.url, timeout=30, headers=client.http.headers, transport=transport)


def traceparent(trace: str, *, sampled: bool = True) -> dict[str, str]:
    return {"traceparent": f"00-{trace}-{secrets.token_hex(8)}-{'01' if sampled else '00'}"}


async def test_one_trace_leads_from_the_request_to_the_job(server: Server, ada: Account, collector: Collector) -> None:
    trace = secrets.token_hex(16)
    through_the_gateway(ada)
    headers = traceparent(trace)
    ada.http.headers.update(headers)
    title, filename = secrets.token_hex(8), f"{secrets.token_hex(8)}.jpg"
    media = await ada.uploaded(photograph(64, 48), filename, title=title)
    del ada.http.headers["traceparent"]
    settled = await ada.settled(media["id"])
    assert settled["status"] == "READY", settled
    wait_for(lambda: "job ingest" in {span.name for _, span in collector.spans(trace)})
    found = collector.spans(trace)

    named = {(service, span.name): span for service, span in found}
    request = named["heirloom-api", "POST /graphql"]
    assert request.parent_span_id.hex() == headers["traceparent"].split("-")[2]
    operation = named["heirloom-api", "mutation Upload"]
    assert operation.parent_span_id == request.span_id
    assert named["heirloom-api", "storage put"].parent_span_id == operation.span_id
    assert named["heirloom-api", "INSERT"].parent_span_id == operation.span_id
    job = named["heirloom-worker", "job ingest"]
    assert job.parent_span_id == operation.span_id
    assert named["heirloom-worker", "storage open"].parent_span_id == job.span_id
    stored = [span for service, span in found if (service, span.name) == ("heirloom-worker", "storage put")]
    assert len(stored) == len(settled["variants"])
    assert {span.parent_span_id for span in stored} == {job.span_id}
    assert named["heirloom-worker", "UPDATE"].parent_span_id == job.span_id

    told = b"".join(collector.bodies)
    assert b"INSERT INTO" in told
    assert ada.token is not None
    for secret in (ada.token, ada.email, title, filename, filename[:-4], settled["sha256"], "signature="):
        assert secret.encode() not in told


async def test_a_line_of_the_log_names_its_trace(server: Server, ada: Account) -> None:
    trace = secrets.token_hex(16)
    through_the_gateway(ada)
    answer = await ada.http.post("/graphql", json={"query": "{ viewer { email } }"}, headers=traceparent(trace))
    asked = answer.headers["x-request-id"]

    def line() -> dict[str, object] | None:
        text = (server.data_dir.parent / "serve.log").read_bytes()
        lines = [orjson.loads(each) for each in text[: text.rfind(b"\n") + 1].splitlines()]
        return next((each for each in lines if each.get("request_id") == asked), None)

    wait_for(lambda: line() is not None)
    assert (line() or {})["trace_id"] == trace


async def test_a_stranger_decides_nothing(ada: Account, collector: Collector) -> None:
    strange, unsampled, wanted = (secrets.token_hex(16) for _ in range(3))
    ask = {"query": "{ viewer { email } }"}
    await ada.http.post("/graphql", json=ask, headers=traceparent(strange))
    await ada.http.post("/graphql", json=ask, headers=traceparent(strange) | {"x-forwarded-for": GATEWAY})
    through_the_gateway(ada)
    await ada.http.post("/graphql", json=ask, headers=traceparent(unsampled, sampled=False))
    await ada.http.post("/graphql", json=ask, headers=traceparent(wanted))
    wait_for(lambda: bool(collector.spans(wanted)))
    assert {strange, unsampled}.isdisjoint(collector.all_traces())


async def test_a_failure_is_told_by_its_class_alone(ada: Account, collector: Collector) -> None:
    trace, name = secrets.token_hex(16), secrets.token_hex(8)
    through_the_gateway(ada)
    query = {"query": f"query Wrong {{ viewer {{ {'x' + name} }} }}"}
    answer = await ada.http.post("/graphql", json=query, headers=traceparent(trace))
    assert "errors" in answer.json()
    wait_for(lambda: "POST /graphql" in {span.name for _, span in collector.spans(trace)})
    [operation] = [span for _, span in collector.spans(trace) if span.name == "query Wrong"]
    assert {each.key: each.value.string_value for each in operation.attributes}["error.type"] == "refused"
    assert name.encode() not in b"".join(collector.bodies)


async def test_a_socket_begins_a_trace_with_each_operation(
    collector: Collector, database_dsn: str, tmp_path: Path
) -> None:
    with running(tmp_path, database_dsn, worker=False, otlp_endpoint=collector.url) as server:
        known = collector.all_traces()
        async with admitted(server, "Ada") as ada, ada.socket() as socket:
            for name in ("First", "Second"):
                assert [each async for each in socket.subscribe(f"query {name} {{ viewer {{ email }} }}")] != []

            def traces() -> list[list[str]]:
                found = [collector.spans(trace) for trace in collector.all_traces() - known]
                return [[span.name for _, span in spans] for spans in found]

            # An operation's own span is the last of its trace.
            wait_for(lambda: {"query First", "query Second"} <= {name for names in traces() for name in names})
            both = [names for names in traces() if {"query First", "query Second"} & set(names)]
            events = {"accept": "text/event-stream"}
            follow = {"query": "subscription { mediaEvents { cursor } }"}
            async with ada.http.stream("POST", "/graphql", json=follow, headers=events) as stream:
                assert stream.status_code == 200
            await socket.start(follow["query"])
        assert len(both) == 2
        assert all("SELECT" in names for names in both)
    assert "detach" not in (tmp_path / "serve.log").read_text()  # OpenTelemetry's word for a span that ends elsewhere


async def test_requests_go_on_while_the_collector_says_nothing(database_dsn: str, tmp_path: Path) -> None:
    with (
        collecting() as collector,
        running(tmp_path, database_dsn, worker=False, otlp_endpoint=collector.url) as server,
    ):
        collector.answers.clear()
        async with admitted(server, "Ada") as ada:
            await ada.ask("{ viewer { email } }")
            wait_for(lambda: bool(collector.bodies))  # it hears what it doesn't answer
            began = time.monotonic()
            for _ in range(20):
                await ada.ask("{ viewer { email } }")
            assert time.monotonic() - began < STOP_SECONDS
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(STOP_SECONDS) == 0
