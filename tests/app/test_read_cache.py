"""That reads are kept is never seen: every answer is what the tables say, whoever has changed them, and where."""

from __future__ import annotations

import asyncio
import hashlib
import os
import uuid
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any, Final, TypeVar

import asyncpg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from app import ingest, media, mending
from app.db import hydrate
from app.keyset import Page
from app.known_keys import Known, Source
from app.media import EVERYTHING, NEWEST
from app.migrate import migrate
from app.piccolo_conf import DB
from app.read_cache import MOST_NEWS, ReadCache
from app.settings import load
from app.tables import Entity, Media
from app.wiring import open_services
from graphql_schema.schema import schema
from tests.app.in_process import delete_expired
from tests.app.read_world import (
    CONTENT,
    ELSEWHERE,
    FIRST,
    SECOND,
    TABLES,
    TOUR,
    House,
    Tour,
    changed,
    insert_variants,
    picture,
)
from tests.client import Account, Json, admitted
from tests.graphql_schema.rows import dsn_of, insert_media
from tests.graphql_schema.test_statements import POOL, logged, one_connection
from tests.postgres import create_database, drop_database
from tests.server import OF_THE_RUN, SECRET_KEY, Server, running

pytestmark = pytest.mark.xdist_group("read_cache")

KEPT = 2  # statements of an operation that is answered with what is kept: who asks, and what has changed
URL_LIFETIME = timedelta(minutes=10)
LIST = """
    query($profile: ID!) { profile(id: $profile) {
        name media { totalCount nodes { id title url urlExpiresAt variants { name url } } }
    } }
"""
EMPTY = {"nodes": [], "pageInfo": {"hasNextPage": False, "endCursor": None}}
ORDER = ("UPLOADED", "PROCESSING", "READY")
ATTACH = "mutation($input: AttachMediaInput!) { attachMedia(input: $input) { errors { code } } }"
TITLE = "mutation($input: UpdateMediaInput!) { updateMedia(input: $input) { media { title } errors { code message } } }"


@pytest.fixture(scope="module")
async def house(server_dsn: str, worker_name: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    dsn = await create_database(server_dsn, name := f"read_cache_{worker_name}")
    given = {
        **OF_THE_RUN,
        "HEIRLOOM_DATABASE_URL": dsn,
        "HEIRLOOM_DATA_DIR": str(tmp_path_factory.mktemp("read_cache")),
        "HEIRLOOM_SECRET_KEY": SECRET_KEY,
        "HEIRLOOM_DATABASE_POOL": str(POOL),
        "HEIRLOOM_RATE_LIMITS": "off",
        "HEIRLOOM_MAX_COST": "1000000",
        "HEIRLOOM_URL_LIFETIME": str(int(URL_LIFETIME.total_seconds())),
    }
    async with open_services(load(given), dsn=dsn) as services:
        await migrate()
        house = House(services, dsn)
        for app, most_rows in ((FIRST, 10_000), (SECOND, 10_000), (TABLES, 0)):
            house.open(app, most_rows)
        yield house
    await drop_database(server_dsn, name)


async def statements(account: Account, query: str, **variables: Any) -> tuple[Any, int]:
    """What is answered, and how many statements it took."""
    async with one_connection() as connection:
        await account.ask("{ viewer { email } }")  # a connection's first time asks for types, too
        with logged(connection) as said:
            answer = await account.ask(query, **variables)
    return answer, len(said)


# ---------------------------------------------------------------- every write


def test_every_mutation_is_tried() -> None:
    mutation = schema._schema.mutation_type
    assert mutation is not None
    assert set(mutation.fields) <= {name for name, _ in TOUR} | ELSEWHERE


@pytest.mark.parametrize("actor", ["owner", "admin"])
async def test_every_write_shows_in_the_next_read_everywhere(house: House, actor: str) -> None:
    tour = await Tour.begin(house)
    before = await tour.look_around()
    for name, does in TOUR:
        await does(tour, tour.who(actor))
        after = await tour.look_around()
        assert after["owner"] != before["owner"], name
        before = after
    assert before["owner"]["person"] is before["admin"]["person"] is None
    for app in (FIRST, SECOND):
        seen = await tour.look("stranger", app)
        assert seen == {"viewer": {"profiles": {"nodes": []}, "people": EMPTY}, "person": None, "profile": None}
        assert await tour.look("nobody", app) == {"viewer": None, "person": None, "profile": None}


async def test_what_is_moved_while_it_is_processed_shows_where_it_is(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker that ends the processing knows the place where it was when that began."""
    tour = await Tour.begin(house)
    await tour.furnish()
    owner = tour.who("owner")
    moved = (await owner.uploaded(picture(), entityId=tour.person))["id"]
    fetch = ingest.fetch

    async def fetch_and_move(*given: Any) -> str:
        sha256 = await fetch(*given)
        await changed(owner, ATTACH, input={"mediaIds": [moved], "entityId": tour.profile, "slot": "photos"})
        await tour.look_around()
        return sha256

    monkeypatch.setattr(ingest, "fetch", fetch_and_move)
    assert await house.work(ingest.process, moved)
    seen = (await tour.look_around())["owner"]["profile"]
    assert (seen["newest"]["nodes"][0]["id"], seen["newest"]["nodes"][0]["status"]) == (moved, "READY")
    assert seen["unfinished"]["totalCount"] == 0


async def test_a_hash_shows_as_soon_as_it_is_known(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the next stage is told."""
    tour, steps = await Tour.begin(house), dict(TOUR)
    await tour.furnish()
    for name in ("createUploadSession", "completeUpload"):
        await steps[name](tour, tour.who("owner"))
    fetch, reach, shown = ingest.fetch, ingest._reach, []

    async def look() -> None:
        shown.append((await tour.look_around())["owner"]["person"]["newest"]["nodes"][0]["sha256"])

    async def fetch_and_look(*given: Any) -> str:
        sha256 = await fetch(*given)
        await look()
        return sha256

    async def look_and_reach(*given: Any) -> None:
        await look()
        await reach(*given)

    monkeypatch.setattr(ingest, "fetch", fetch_and_look)
    monkeypatch.setattr(ingest, "_reach", look_and_reach)
    assert await house.work(ingest.process, tour.media["sent"])
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    assert shown == [None, sha256, sha256]  # fetched; about to be analyzed, and stored


async def test_what_the_check_mends_while_it_is_processed_shows(house: House) -> None:
    tour = await Tour.begin(house)
    await tour.furnish()
    one = (await tour.look("owner", TABLES))["profile"]["newest"]["nodes"][0]
    this = uuid.UUID(one["id"])
    await house.execute("UPDATE media SET status = 'PROCESSING' WHERE id = $1", this)
    before = (await tour.look_around())["owner"]
    _original, variant = await house.known(one["id"])
    assert await mending.drop_variant(variant, datetime.now(UTC))
    after = (await tour.look_around())["owner"]
    shown = [seen["profile"]["newest"]["nodes"][0]["variants"] for seen in (before, after)]
    assert [len(variants) for variants in shown] == [1, 0]

    await house.execute("UPDATE media SET lost_at = now(), status = 'UPLOADED' WHERE id = $1", this)
    for app in (FIRST, SECOND):
        house.open(app, 10_000)  # of what is written by hand nobody is told
    assert (await tour.look_around())["owner"]["profile"]["newest"]["totalCount"] == 1
    original = Known("", Source.ORIGINAL, this, this, 1, "UPLOADED", is_lost=True, is_tombstone=False, backend="")
    (row,) = await Media.select(Media.storage_key).where(Media.id == this)
    assert await mending.find_again(replace(original, key=row["storage_key"]), datetime.now(UTC))
    assert (await tour.look_around())["owner"]["profile"]["newest"]["totalCount"] == 2


async def test_a_mutation_sees_what_it_has_just_written(house: House) -> None:
    tour = await Tour.begin(house)
    await tour.furnish()
    owner = tour.who("owner")
    listed = await owner.ask(LIST, profile=tour.profile)
    one = listed["media"]["nodes"][0]["id"]
    within = """mutation($one: UpdateMediaInput!, $other: UpdateMediaInput!) {
        one: updateMedia(input: $one) { media { entity { name media { nodes { title } } } } }
        other: updateMedia(input: $other) { media { entity { name media { nodes { title } } } } }
    }"""
    answer = await owner.ask(within, one={"id": one, "title": "One"}, other={"id": one, "title": "Other"})
    titles = [
        [node["title"] for node in answer[name]["media"]["entity"]["media"]["nodes"]] for name in ("one", "other")
    ]
    assert titles == [["One", None], ["Other", None]]


# ---------------------------------------------------------------- what is kept, and for whom


async def test_what_was_read_before_takes_two_statements_and_is_the_same(house: House) -> None:
    tour = await Tour.begin(house)
    await tour.furnish()
    owner = tour.who("owner")
    first, read = await statements(owner, LIST, profile=tour.profile)
    again, kept = await statements(owner, LIST, profile=tour.profile)
    truth, always = await statements(tour.who("owner", TABLES), LIST, profile=tour.profile)
    assert first == again == truth
    assert [len(node["variants"]) for node in first["media"]["nodes"]] == [1, 1]
    # Who asks, what has changed; the profile, its media, their number and their variants.
    assert (read, kept, always) == (6, KEPT, 5)
    viewer = "{ viewer { profiles { nodes { name bio avatar { id } person { name } } } } }"
    first, read = await statements(owner, viewer)
    again, kept = await statements(owner, viewer)
    assert first == again
    assert read - kept == 4  # the profiles, their details and slots, the persons; beside the account
    assert kept == KEPT


async def test_what_concerns_another_leaves_what_is_kept(house: House) -> None:
    tour, other = await Tour.begin(house), await Tour.begin(house)
    await tour.furnish()
    owner = tour.who("owner")
    await owner.ask(LIST, profile=tour.profile)
    await other.furnish()
    assert (await statements(owner, LIST, profile=tour.profile))[1] == KEPT
    await owner.uploaded(picture(), entityId=tour.profile)
    more, read = await statements(owner, LIST, profile=tour.profile)
    assert (more["media"]["totalCount"], read) == (3, 6)
    assert (await statements(owner, LIST, profile=tour.profile))[1] == KEPT


async def test_nobody_is_given_what_another_has_read(house: House) -> None:
    tour = await Tour.begin(house)
    await tour.furnish()
    everybody = [(reader, tour.who(reader)) for reader in tour.readers]
    for _ in range(2):
        for reader, client in [*everybody, *reversed(everybody)]:
            seen = await client.ask(LIST, profile=tour.profile)
            assert (seen is not None) is (reader in {"owner", "admin"}), reader
    keys = {key[0] for key in house.caches[FIRST]._entries}
    assert {who[0] for who in keys if who} >= {each.id for each in tour.readers.values() if each}


async def test_who_is_no_admin_any_more_is_given_nothing(house: House) -> None:
    tour = await Tour.begin(house)
    await tour.furnish()
    admin = tour.who("admin")
    assert await admin.ask(LIST, profile=tour.profile) == await tour.who("owner").ask(LIST, profile=tour.profile)
    await house.execute("UPDATE user_account SET role = 'USER' WHERE id = $1", uuid.UUID(admin.id))
    assert await admin.ask(LIST, profile=tour.profile) is None
    await house.execute("UPDATE user_account SET role = 'ADMIN' WHERE id = $1", uuid.UUID(admin.id))
    assert await admin.ask(LIST, profile=tour.profile) is not None


async def test_who_has_signed_out_is_given_nothing(house: House) -> None:
    tour = await Tour.begin(house)
    await tour.furnish()
    owner, elsewhere = tour.who("owner"), tour.who("owner", SECOND)
    for client in (owner, elsewhere):
        await client.ask(LIST, profile=tour.profile)
    await elsewhere.ask("mutation { logout { errors { code } } }")
    for client in (owner, elsewhere):
        answer = await client.http.post("/graphql", json={"query": LIST, "variables": {"profile": tour.profile}})
        assert answer.status_code == 401


async def test_urls_are_signed_anew(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    tour = await Tour.begin(house)
    await tour.furnish()
    owner = tour.who("owner")
    began, urls = datetime.now(UTC), set()
    for elapsed in range(0, 3 * int(URL_LIFETIME.total_seconds()), 77):
        present = began + timedelta(seconds=elapsed)
        for signing in ("graphql_schema.media.datetime", "graphql_schema.readers.datetime"):
            monkeypatch.setattr(signing, SimpleNamespace(now=lambda _, at=present: at))
        listed, took = await statements(owner, LIST, profile=tour.profile)
        assert took == (KEPT if elapsed else 6)
        for node in listed["media"]["nodes"]:
            assert datetime.fromisoformat(node["urlExpiresAt"]) - present > URL_LIFETIME / 2
        urls.add((listed["media"]["nodes"][0]["url"], listed["media"]["nodes"][0]["variants"][0]["url"]))
    assert len(urls) > 10  # a new one for each quarter of a life


async def test_so_many_rows_are_kept_and_no_more(house: House) -> None:
    tour = await Tour.begin(house)
    await tour.furnish()
    await insert_media(
        house.dsn, tour.who("owner").id, [{"entity": uuid.UUID(tour.person), "slot": "photos"} for _ in range(40)]
    )
    await insert_variants(house)
    house.open("small", 60)
    small, truth, cache = tour.who("owner", "small"), tour.who("owner", TABLES), house.caches["small"]
    query = """query($person: ID!, $first: Int!) { person(id: $person) {
        name media(first: $first) { totalCount nodes { id variants { name } } }
    } }"""
    for first in [*range(1, 40), *range(1, 40)]:
        asked = {"person": tour.person, "first": first}
        assert await small.ask(query, **asked) == await truth.ask(query, **asked)
        assert 0 < cache.rows <= 60
        assert cache.rows == sum(entry.rows for entry in cache._entries.values())
        assert set(cache._about) == {subject for entry in cache._entries.values() for subject in entry.about}
    assert house.caches[TABLES].rows == 0


async def test_a_long_row_counts_as_several(house: House) -> None:
    tour = await Tour.begin(house)
    await tour.furnish()
    house.open("narrow", 12)
    narrow, cache = tour.who("owner", "narrow"), house.caches["narrow"]
    listed = "query($profile: ID!) { profile(id: $profile) { media { nodes { id description } } } }"
    nodes = (await narrow.ask(listed, profile=tour.profile))["media"]["nodes"]
    assert cache.rows == 4  # the profile, the page, its two rows
    given = {"id": nodes[0]["id"], "description": "words" * 3_000}
    await changed(narrow, TITLE, input=given)
    again = (await narrow.ask(listed, profile=tour.profile))["media"]["nodes"]
    assert again[0]["description"] == given["description"]
    assert cache.rows == 7
    await changed(
        narrow, TITLE, input={"id": nodes[1]["id"], "description": given["description"], "altText": "x" * 20_000}
    )
    await narrow.ask(listed, profile=tour.profile)
    assert cache.rows <= 12


async def test_what_a_client_makes_long_is_not_kept(house: House) -> None:
    tour = await Tour.begin(house)
    await tour.furnish()
    owner, cache = tour.who("owner"), house.caches[FIRST]
    query = "query($person: ID!, $slot: String!) { person(id: $person) { media(slot: $slot) { nodes { id } } } }"
    await owner.ask(query, person=tour.person, slot="photos")
    before = cache.rows
    for slot in ("x" * 2_000, "y" * 100_000):
        assert await owner.ask(query, person=tour.person, slot=slot) == {"media": {"nodes": []}}
    assert cache.rows == before


# ---------------------------------------------------------------- what may come in between


async def test_what_changes_while_it_is_read_is_not_kept(house: House) -> None:
    """The write has ended, and others know of it, when the reader has its rows from before."""
    tour = await Tour.begin(house)
    await tour.furnish()
    owner, viewer, cache = tour.who("owner"), tour.readers["owner"], ReadCache(100)
    (row,) = await Entity.select().where(Entity.id == uuid.UUID(tour.profile))
    entity = hydrate(Entity, row)
    read = partial(
        media.of_entity, viewer, entity, slot=None, which=EVERYTHING, order=NEWEST, first=9, after=None, most=9
    )

    async def while_it_changes() -> Page[Media]:
        page = await read()
        await changed(owner, TITLE, input={"id": str(page.rows[0].id), "title": "Written meanwhile"})
        await cache.reads_of(None).catch_up()
        return page

    async def listed(how: Any) -> list[str | None]:
        reads = cache.reads_of(viewer)
        await reads.catch_up()
        return [each.title for each in (await reads.page("media", entity.id, (), (), how)).rows]

    assert await listed(while_it_changes) == [None, None]
    assert cache.rows == 0
    assert await listed(read) == ["Written meanwhile", None]
    assert cache.rows == 3


@asynccontextmanager
async def open_transaction(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """One that has written, and so holds back what others commit after it from being in order."""
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_current_xact_id()")
            yield connection
    finally:
        await connection.close()


async def test_a_transaction_that_stays_open_hides_nothing(house: House) -> None:
    tour = await Tour.begin(house)
    await tour.furnish()
    owner = tour.who("owner")
    listed = await owner.ask(LIST, profile=tour.profile)
    one, other = [node["id"] for node in listed["media"]["nodes"]]
    async with open_transaction(house.dsn) as connection:
        await tour.look_around()
        for title in ("A", "B"):
            await changed(owner, TITLE, input={"id": one, "title": title})
            for _ in range(2):
                seen = await tour.look_around()
            assert title in str(seen["owner"])
        await owner.ask(LIST, profile=tour.profile)
        assert (await statements(owner, LIST, profile=tour.profile))[1] == KEPT
        # It commits last, what it says comes first in order.
        await connection.execute("UPDATE media SET title = 'C' WHERE id = $1", uuid.UUID(other))
        await connection.execute(
            "INSERT INTO event (kind, media, entity, occurred_at) VALUES ('UPDATED', $1, $2, now())",
            *(uuid.UUID(other), uuid.UUID(tour.profile)),
        )
        assert "'C'" not in str(await tour.look_around())
    assert "'C'" in str((await tour.look_around())["owner"])


async def test_more_news_than_are_read_at_once_are_all_believed(house: House) -> None:
    tour = await Tour.begin(house)
    await tour.furnish()
    owner = tour.who("owner")
    listed = await owner.ask(LIST, profile=tour.profile)
    one = listed["media"]["nodes"][0]["id"]
    noise = """INSERT INTO event (kind, media, occurred_at)
        SELECT 'UPDATED', gen_random_uuid(), now() FROM generate_series(1, $1)"""
    async with open_transaction(house.dsn):
        for title in ("A", "B"):
            await house.execute(noise, MOST_NEWS + 1)
            await tour.look_around()
            await changed(owner, TITLE, input={"id": one, "title": title})
            assert title in str((await tour.look_around())["owner"])
    await tour.look_around()
    await owner.ask(LIST, profile=tour.profile)
    assert (await statements(owner, LIST, profile=tour.profile))[1] == KEPT


async def test_events_that_are_deleted_before_they_are_heard_are_not_missed(house: House) -> None:
    tour = await Tour.begin(house)
    await tour.furnish()
    await tour.look_around()
    listed = await tour.who("owner").ask(LIST, profile=tour.profile)
    await changed(tour.who("owner"), TITLE, input={"id": listed["media"]["nodes"][0]["id"], "title": "Forgotten"})
    await delete_expired(timedelta(0), datetime.now(UTC) + timedelta(days=1))
    assert await DB._run_in_pool("SELECT id FROM event") == []
    assert "Forgotten" in str((await tour.look_around())["owner"])


async def test_another_process_shows_what_a_worker_does(
    server: Server, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each stage that is told, when it is told: to whom hears of it, the other process has nothing older to show."""
    query = (
        "query($person: ID!) { person(id: $person) { media { totalCount nodes { status width variants { name } } } } }"
    )
    with running(tmp_path_factory.mktemp("beside"), dsn_of(server), worker=False) as beside:
        async with admitted(server, "Ada") as ada, Account(beside.url, signed_in(ada), ada.email) as there:
            person = (await ada.person())["id"]
            assert (await there.ask(query, person=person))["media"] == {"totalCount": 0, "nodes": []}
            made = await ada.uploaded(picture(), entityId=person)
            assert (await there.ask(query, person=person))["media"]["totalCount"] == 1
            async with ada.socket() as socket:
                watch = "subscription($id: ID!) { mediaProcessing(mediaId: $id) { status } }"
                async for update in socket.subscribe(watch, id=made["id"]):
                    (shown,) = (await there.ask(query, person=person))["media"]["nodes"]
                    told = update["mediaProcessing"]["status"]
                    assert ORDER.index(shown["status"]) >= ORDER.index(told)
            assert (shown["status"], shown["width"], len(shown["variants"])) == ("READY", 8, 4)
            await changed(there, TITLE, input={"id": made["id"], "title": "Said there"})
            titles = "query($person: ID!) { person(id: $person) { media { nodes { title } } } }"
            for client in (ada, there):
                assert (await client.ask(titles, person=person))["media"]["nodes"] == [{"title": "Said there"}]


def signed_in(account: Account) -> Json:
    return {"accessToken": account.token, "refreshToken": account.refresh_token, "user": {"id": account.id}}


# ---------------------------------------------------------------- anything, in any order


EACH: Final = settings(deadline=None, suppress_health_check=list(HealthCheck), database=None, print_blob=True)
PROFILES: Final = {
    "quick": settings(EACH, max_examples=6, stateful_step_count=20, derandomize=True),
    "fuzz": settings(EACH, max_examples=200, stateful_step_count=60),
}
T = TypeVar("T")
actors = st.sampled_from(["owner", "admin"])
applications = st.sampled_from([FIRST, SECOND])
readers = st.sampled_from(["owner", "owner", "admin", "stranger", "nobody"])
places = st.sampled_from(["person", "profile"])
slots = st.sampled_from(["photos", "avatar", "cover"])
which = st.integers(0, 20)
words = st.sampled_from(["A", "B", None])


class Reading(RuleBasedStateMachine):
    """Somebody changes something by one of two applications, or looks: each look is the truth."""

    def __init__(self, house: House, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._house, self._loop = house, loop

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    @initialize()
    def furnish(self) -> None:
        self.tour: Tour = self._run(Tour.begin(self._house))
        self._run(self.tour.furnish())
        owner = uuid.UUID(self.tour.who("owner").id)
        rows = self._run(self._house.fetch("SELECT id FROM media WHERE owner = $1 ORDER BY id", owner))
        self.media = [str(row["id"]) for row in rows]

    @rule(reader=readers, app=applications)
    def look(self, reader: str, app: str) -> None:
        assert self._run(self.tour.look(reader, app)) == self._run(self.tour.look(reader, TABLES))

    @rule(actor=actors, app=applications, title=words, primary=st.booleans(), number=which)
    def describe(self, actor: str, app: str, title: str | None, primary: bool, number: int) -> None:
        given = {"id": self._one(number), "title": title, "isPrimary": primary, "tags": ["sea"] if primary else []}
        self._do(actor, app, TITLE, input=given)

    @rule(actor=actors, app=applications, place=places, slot=slots)
    def upload(self, actor: str, app: str, place: str, slot: str) -> None:
        given = {"entityId": getattr(self.tour, place), "slot": slot if place == "profile" else "photos"}
        made = self._run(self.tour.who(actor, app).upload(picture(), **given))
        self.media.append(made["media"]["id"])

    @rule(actor=actors, app=applications, place=places, slot=slots, number=which)
    def attach(self, actor: str, app: str, place: str, slot: str, number: int) -> None:
        given = {"mediaIds": [self._one(number)], "entityId": getattr(self.tour, place), "slot": slot}
        self._do(actor, app, ATTACH, input=given)

    @rule(
        actor=actors,
        app=applications,
        number=which,
        mutation=st.sampled_from(["delete", "restore", "purge", "reprocess"]),
    )
    def move(self, actor: str, app: str, number: int, mutation: str) -> None:
        document = f"mutation($input: MediaIdsInput!) {{ {mutation}Media(input: $input) {{ errors {{ code }} }} }}"
        self._do(actor, app, document, input={"ids": [self._one(number)]})

    @rule(actor=actors, app=applications, place=places, name=st.sampled_from(["Ada", "Grace"]))
    def rename(self, actor: str, app: str, place: str, name: str) -> None:
        what = place.capitalize()
        document = f"mutation($input: Update{what}Input!) {{ update{what}(input: $input) {{ errors {{ code }} }} }}"
        self._do(actor, app, document, input={"id": getattr(self.tour, place), "name": name})

    @rule(actor=actors, app=applications)
    def begin_anew(self, actor: str, app: str) -> None:
        """The profile goes, and comes."""
        deleted = "mutation($id: ID!) { deleteProfile(id: $id) { errors { code } } }"
        self._do(actor, app, deleted, id=self.tour.profile)
        self.look("owner", FIRST)
        self.tour.profile = self._run(self.tour.who(actor, app).profile(self.tour.person))["id"]

    def _one(self, number: int) -> str:
        return self.media[number % len(self.media)]

    def _do(self, actor: str, app: str, document: str, **variables: Any) -> None:
        """Whatever becomes of it, each that looks sees that."""
        self._run(self.tour.who(actor, app).ask(document, **variables))
        self.look(actor, SECOND if app == FIRST else FIRST)


async def test_whatever_is_done_and_read_in_any_order(house: House) -> None:
    machine: Any = partial(Reading, house, asyncio.get_running_loop())
    profile = PROFILES[os.environ.get("HYPOTHESIS_PROFILE", "quick")]
    await asyncio.to_thread(run_state_machine_as_test, machine, settings=profile)
