"""What Prometheus is told, by whichever process it asks, and that nobody else is told anything."""

from __future__ import annotations

import asyncio
import resource
import secrets
import signal
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from prometheus_client import values
from prometheus_client.parser import text_string_to_metric_families

from app import metrics
from app.metrics import MOST_NAMES_OF_A_USER
from app.postmaster import address
from tests.client import Account, Client, admitted
from tests.pictures import photograph
from tests.server import (
    Server,
    children,
    command,
    free_port,
    reachable_folder,
    running,
    spawned,
    wait_for,
    wait_until_working,
)

pytestmark = pytest.mark.xdist_group("metrics")

PROCESSES = 2
SIGN_INS = 3
TOKEN = secrets.token_hex(16)
Sample = tuple[str, frozenset[tuple[str, str]]]


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Server]:
    """All that one start can be: a database, two API processes and a worker."""
    settings = {"workers": PROCESSES, "rate_limits": "on", "sign_in_rate": f"{SIGN_INS}/36000"}
    with reachable_folder() as folder, running(folder, None, **settings) as server:  # type: ignore[arg-type]
        found = {
            "HEIRLOOM_DATABASE_URL": address(server.data_dir),
            "HEIRLOOM_SECRET_KEY": (server.data_dir / "secret_key").read_text(),
        }
        await all_listen(server.url)
        yield replace(server, environment={**server.environment, **found})


@pytest.fixture
async def ada(server: Server) -> AsyncIterator[Account]:
    async with admitted(server, "Ada") as ada:
        yield ada


def sample(name: str, **labels: str) -> Sample:
    return name, frozenset(labels.items())


async def scraped(url: str, **headers: str) -> Counter[Sample]:
    async with httpx.AsyncClient(timeout=30) as prometheus:
        answer = await prometheus.get(f"{url}/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    found: Counter[Sample] = Counter()
    for family in text_string_to_metric_families(answer.text):
        for each in family.samples:
            found[sample(each.name, **each.labels)] = each.value  # type: ignore[assignment]  # a float
    return found


async def come_to(url: str, before: Counter[Sample], expected: dict[Sample, float]) -> Counter[Sample]:
    """Waits until these have grown by so much: an answer is counted when it has gone."""
    async with asyncio.timeout(30):
        while True:
            now = await scraped(url)
            grown = {each: now[each] - before[each] for each in expected}
            if all(grown[each] >= expected[each] for each in expected):
                assert grown == expected
                return now
            await asyncio.sleep(0.05)


def counted(name: str, outcome: str, **labels: str) -> Sample:
    return sample(name, outcome=outcome, **labels)


async def test_what_is_asked_and_done_is_counted_over_all_processes(server: Server, ada: Account) -> None:
    before = await scraped(server.url)
    media = await ada.uploaded(photograph(48, 32) + secrets.token_bytes(8))
    settled = await ada.settled(media["id"])
    operations, http = "heirloom_operations_total", "heirloom_http_responses_total"
    stored = 1 + len(settled["variants"])
    after = await come_to(
        server.url,
        before,
        {
            counted(operations, "ok", operation="Upload", type="mutation"): 1,
            counted(operations, "ok", operation="Watch", type="subscription"): 1,
            counted(operations, "ok", operation="anonymous", type="query"): 1,
            sample("heirloom_operation_seconds_count", operation="Upload"): 1,
            sample("heirloom_operation_seconds_count", operation="Watch"): 0,
            sample("heirloom_resolver_seconds_count", field="Mutation.uploadMedia"): 1,
            sample("heirloom_resolver_seconds_count", field="Query.media"): 1,
            sample(http, route="/graphql", method="POST", status="200"): 2,
            sample(http, route="/graphql", method="WEBSOCKET", status="101"): 1,
            counted("heirloom_jobs_total", "done", entrypoint="ingest"): 1,
            sample("heirloom_job_seconds_count", entrypoint="ingest"): 1,
            counted("heirloom_media_processed_total", "READY", kind="IMAGE"): 1,
            counted("heirloom_storage_calls_total", "ok", operation="put"): stored,
            sample("heirloom_storage_seconds_count", operation="put"): stored,
            counted("heirloom_storage_calls_total", "ok", operation="open"): 1,
            sample("heirloom_sockets_open"): 0,
            sample("heirloom_subscriptions_open", protocol="graphql-transport-ws"): 0,
        },
    )
    for each in ("heirloom_sql_seconds_count", "heirloom_events_read_total", "heirloom_pool_wait_seconds_count"):
        assert total(after, each) > total(before, each)
    assert after[sample("heirloom_hubs_listening")] == PROCESSES
    sweep = sample("heirloom_queue_jobs", entrypoint="sweep", status="queued")
    await settles(server.url, {sample("heirloom_events_behind"): 0, sweep: 1})
    for process in ("api-0", "api-1", "worker-0"):
        assert after[sample("process_resident_memory_bytes", process=process)] > 10_000_000
        assert after[sample("process_open_fds", process=process)] > 5
        assert after[sample("process_cpu_seconds_total", process=process)] > 0


def total(scrape: Counter[Sample], name: str) -> float:
    return sum(value for (each, _), value in scrape.items() if each == name)


async def test_what_goes_wrong_has_its_outcome(server: Server, ada: Account) -> None:
    before = await scraped(server.url)
    broken = await ada.uploaded(photograph(48, 32)[:-400] + secrets.token_bytes(8))
    failed = await ada.settled(broken["id"])
    assert failed["status"] == "FAILED"
    assert "errors" in await ada.post("query Wrong { nothing }")
    assert "errors" in await ada.post("{")
    absent = await ada.http.post("/graphql", json={"query": "query A { __typename }", "operationName": "B"})
    assert (absent.status_code, "errors" in absent.json()) == (400, True)
    untrusted = (await ada.http.post("/graphql", json={"documentId": "sha256:unknown"})).json()
    assert untrusted["errors"][0]["extensions"]["code"] == "PERSISTED_QUERY_NOT_SUPPORTED"
    await ada.http.get(f"/no/such/{secrets.token_hex(4)}")
    operations = "heirloom_operations_total"
    await come_to(
        server.url,
        before,
        {
            counted("heirloom_media_processed_total", failed["failure"]["code"], kind="IMAGE"): 1,
            counted(operations, "refused", operation="other", type="query"): 1,
            counted(operations, "refused", operation="anonymous", type="unknown"): 2,  # what can't be read, or found
            counted(operations, "refused", operation="other", type="unknown"): 1,
            sample("heirloom_http_responses_total", route="", method="GET", status="404"): 1,
        },
    )


async def test_what_is_open_is_told_while_it_is(server: Server, ada: Account) -> None:
    media = await ada.uploaded(photograph(8, 8) + secrets.token_bytes(8))
    await ada.settled(media["id"])
    follow = "subscription { mediaEvents { cursor } }"
    sockets, streams = sample("heirloom_sockets_open"), sample("heirloom_streams_open")
    subscriptions = [
        sample("heirloom_subscriptions_open", protocol=protocol)
        for protocol in ("graphql-transport-ws", "graphql-sse", "multipart")
    ]
    await settles(server.url, dict.fromkeys((sockets, streams, *subscriptions), 0))
    events = {"accept": "text/event-stream"}
    parts = {"accept": "multipart/mixed;subscriptionSpec=1.0, application/json"}
    async with (
        ada.socket() as socket,
        ada.http.stream("POST", "/graphql", json={"query": follow}, headers=events),
        ada.http.stream("POST", "/graphql", json={"query": follow}, headers=parts),
    ):
        await socket.start(follow)
        await socket.start(follow)
        await settles(
            server.url,
            {sockets: 1, streams: 2, **dict(zip(subscriptions, (2, 1, 1), strict=True))},
        )
    await settles(server.url, dict.fromkeys((sockets, streams, *subscriptions), 0))


async def settles(url: str, expected: dict[Sample, int]) -> None:
    async with asyncio.timeout(30):
        while True:
            now = await scraped(url)
            if {each: now[each] for each in expected} == expected:
                return
            await asyncio.sleep(0.05)


async def test_a_refusal_is_counted_by_its_limit(server: Server) -> None:
    before = await scraped(server.url)
    login = 'mutation { login(input: {email: "nobody@example.org", password: "wrong horse"}) { errors { code } } }'
    async with Client(server.url) as nobody:  # one connection, and so one process, which counts by itself
        codes = [(await nobody.ask(login))["errors"][0]["code"] for _ in range(SIGN_INS + 1)]
    refused = codes.count("RATE_LIMITED")
    assert refused >= 1
    assert codes == [codes[0]] * (len(codes) - refused) + ["RATE_LIMITED"] * refused
    await come_to(server.url, before, {sample("heirloom_rate_limited_total", limit="sign-in"): refused})


async def test_names_are_learnt_from_nobody_who_could_bring_any_number(server: Server) -> None:
    mine = [f"Mine{secrets.token_hex(4)}" for _ in range(MOST_NAMES_OF_A_USER + 2)]
    strange = [f"Strange{secrets.token_hex(4)}" for _ in range(3)]
    before = await scraped(server.url)
    async with admitted(server, "Ann") as ann, Client(server.url) as nobody:  # who have a connection each
        for name in strange:
            assert "errors" not in await nobody.post(f"query {name} {{ __typename }}")
        for name in mine:
            assert "errors" not in await ann.post(f"query {name} {{ __typename }}")
    asked = "heirloom_operations_total"
    others = counted(asked, "ok", operation="other", type="query")
    after = await come_to(
        server.url,
        before,
        {
            **{counted(asked, "ok", operation=name, type="query"): 1 for name in mine[:MOST_NAMES_OF_A_USER]},
            others: len(strange) + 2,
        },
    )
    assert [name for name in (*strange, *mine[MOST_NAMES_OF_A_USER:]) if name in str(after)] == []


HERE = "127.0.0.1"


@pytest.mark.parametrize(
    "headers",
    [
        {"x-forwarded-for": HERE},
        {"X-Forwarded-Proto": "http"},
        {"forwarded": "for=127.0.0.1"},
        {"x-real-ip": HERE},
        {"via": "1.1 proxy"},
        {"cf-connecting-ip": HERE},
        {"host": "rebound.example.org"},
        {"host": "localhost.example.org:80"},
        {"host": "[::1"},
    ],
    ids=str,
)
async def test_for_a_stranger_there_is_no_such_page(server: Server, headers: dict[str, str]) -> None:
    async with httpx.AsyncClient(base_url=server.url) as stranger:
        answer, nothing = (
            await stranger.get("/metrics", headers=headers),
            await stranger.get("/nothing", headers=headers),
        )
        assert (answer.status_code, answer.content) == (404, nothing.content) == (nothing.status_code, nothing.content)
        assert set(answer.headers) == set(nothing.headers)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_nor_for_who_asks_in_another_way(server: Server, method: str) -> None:
    async with httpx.AsyncClient(base_url=server.url) as stranger:
        answer, nothing = await stranger.request(method, "/metrics"), await stranger.request(method, "/nothing")
    assert (answer.status_code, answer.content) == (nothing.status_code, nothing.content)


async def test_nor_where_clients_reach_the_server_elsewhere(guarded: Server) -> None:
    async with httpx.AsyncClient(base_url=guarded.url) as proxy:  # that says nothing of whom it asks for
        assert (await proxy.get("/metrics")).status_code == 404


async def test_a_process_that_dies_takes_no_count_with_it(server: Server, ada: Account) -> None:
    await ada.ask("{ viewer { email } }")
    answers = sample("heirloom_http_responses_total", route="/graphql", method="POST", status="200")
    before = await scraped(server.url)
    assert before[answers] > 0
    api = children(server, "api")
    assert len(api) == PROCESSES
    async with ada.socket():
        await settles(server.url, {sample("heirloom_sockets_open"): 1})
        for each in api:
            each.send_signal(signal.SIGKILL)
    known = {each.pid for each in api}

    def all_are_back() -> bool:
        return len([each for each in children(server, "api") if each.pid not in known]) == PROCESSES

    wait_for(all_are_back, 30)
    await all_listen(server.url)
    after = await scraped(server.url)
    assert after[answers] == before[answers]
    assert after[sample("heirloom_sockets_open")] == 0


async def all_listen(url: str) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                if (await scraped(url))[sample("heirloom_hubs_listening")] == PROCESSES:
                    return
            except httpx.TransportError:  # none is there yet
                pass
            await asyncio.sleep(0.1)


async def test_a_worker_by_itself_answers_at_its_own_port(server: Server, tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    mine = {"HEIRLOOM_WORKER_METRICS_PORT": str(port), "HEIRLOOM_METRICS_TOKEN": TOKEN}
    alone = replace(server, environment={**server.environment, **mine})
    log = tmp_path / "worker.log"
    with spawned(command("worker"), alone.environment, log) as worker:
        wait_until_working(log)
        found = await scraped(url, authorization=f"Bearer {TOKEN}")
        assert found[sample("process_resident_memory_bytes", process="worker-0")] > 10_000_000
        assert found[sample("heirloom_queue_jobs", entrypoint="sweep", status="queued")] == 1
        assert total(found, "heirloom_operations_total") == 0  # the server's are its own
        async with httpx.AsyncClient(base_url=url) as stranger:
            for wrong in ({}, {"authorization": "Bearer " + TOKEN[:-1] + "-"}, {"authorization": TOKEN}):
                assert (await stranger.get("/metrics", headers=wrong)).status_code == 404
            right = {"authorization": f"Bearer {TOKEN}"}
            assert (await stranger.post("/metrics", headers=right)).status_code == 404
            assert (await stranger.get("/", headers=right)).status_code == 404
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a scrape that comes while a process starts would fail."""
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)  # what a process that can't start leaves behind
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (metrics.FILE_BYTES // 2, hard))  # as on a full disk
    try:
        with pytest.raises(OSError, match="File too large"), metrics.measured(tmp_path, "api"):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [*tmp_path.glob("*.db")] == []
    with metrics.measured(tmp_path, "api"):
        assert {path.stat().st_size for path in tmp_path.glob("*.db")} == {metrics.FILE_BYTES}
