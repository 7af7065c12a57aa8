"""`heirloom rerender`: what other specs made is made anew, behind what people wait for and without their noticing."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from processing.variants import PICTURE_VARIANTS
from tests.app.test_cli import heirloom
from tests.client import Account, Json, admitted
from tests.footprint import fetch
from tests.graphql_schema.rows import dsn_of, execute
from tests.pictures import photograph
from tests.postgres import create_database, drop_database
from tests.server import Server, running, working

pytestmark = pytest.mark.xdist_group("renewal")  # one server

OLD: Final = "aaaaaaaaaaaa"
MEDIA: Final = """
    query($id: ID!) { media(id: $id) {
        status failure { code } perceptualHash variants { name url sizeBytes }
    } }
"""
EVENTS: Final = "SELECT kind FROM event WHERE media = $1 ORDER BY id"
# A job for a media, which no worker takes yet.
LATER: Final = """
    INSERT INTO pgqueuer (priority, status, entrypoint, payload, execute_after)
    VALUES (-10, 'queued', $1, convert_to('{"media":"' || $2 || '"}', 'UTF8'), now() + interval '1 hour')
"""
ERASE_NOW: Final = "UPDATE pgqueuer SET execute_after = now() WHERE entrypoint = 'erase'"
TO_ERASE: Final = """
    SELECT id, execute_after - now() BETWEEN interval '50 seconds' AND interval '1 minute' AS soon
    FROM pgqueuer WHERE entrypoint = 'erase'
"""
DIGESTS: Final = "SELECT digest FROM variant WHERE media = $1"


@pytest.fixture(scope="module")
async def shop(server_dsn: str, worker_name: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    name = f"renewal_{worker_name}"
    dsn = await create_database(server_dsn, name)
    with running(tmp_path_factory.mktemp("renewal"), dsn, worker=False, processes=1) as server:
        yield server
    await drop_database(server_dsn, name)


@pytest.fixture
async def ada(shop: Server) -> AsyncIterator[Account]:
    async with admitted(shop, "Ada") as account:
        yield account


async def age(server: Server, media: str) -> None:
    """As if another release had made its variants, and looked at less."""
    files = server.data_dir / "files"
    for row in await fetch(server, "SELECT storage_key, digest FROM variant WHERE media = $1", uuid.UUID(media)):
        path = files / row["storage_key"]
        path.rename(Path(str(path).replace(row["digest"], OLD)))
    for change in (
        "UPDATE media SET recipe = NULL, perceptual_hash = NULL WHERE id = $1",
        f"UPDATE variant SET storage_key = replace(storage_key, digest, '{OLD}'), digest = '{OLD}' WHERE media = $1",
    ):
        await execute(dsn_of(server), change, uuid.UUID(media))


async def rerender(server: Server, *arguments: str) -> str:
    status, output, errors = await asyncio.to_thread(heirloom, "rerender", *arguments, env=server.environment)
    assert status == 0, errors
    return output


async def shown(account: Account, media: str) -> Json:
    found: Json = await account.ask(MEDIA, id=media)
    return found


async def statuses(account: Account, media: Json) -> list[int]:
    return [(await account.http.get(variant["url"])).status_code for variant in media["variants"]]


async def put_off(server: Server) -> None:
    """The one job that is to erase bytes comes due, and a worker finds it too early."""
    jobs = before = await fetch(server, TO_ERASE)
    await execute(dsn_of(server), ERASE_NOW)
    async with asyncio.timeout(20):
        while len(jobs) != 1 or jobs[0]["id"] == before[0]["id"]:
            await asyncio.sleep(0.05)
            jobs = await fetch(server, TO_ERASE)
    assert jobs[0]["soon"]


async def test_old_variants_are_served_until_the_new_ones_are_there(shop: Server, ada: Account) -> None:
    with working(shop):
        photo, other = [(await ada.uploaded(photograph(640, 480)))["id"] for _ in range(2)]
        for media in (photo, other):
            await ada.settled(media)
    events = [row["kind"] for row in await fetch(shop, EVENTS, uuid.UUID(photo))]
    await age(shop, photo)
    old = await shown(ada, photo)

    assert await rerender(shop, "--no-wait") == "1 to render anew, after all that is uploaded meanwhile.\n"
    await ada.uploaded(photograph(64, 48))
    waiting = await fetch(shop, "SELECT priority FROM pgqueuer WHERE entrypoint = 'ingest' ORDER BY priority")
    assert [row["priority"] for row in waiting] == [-10, 10]
    between = await shown(ada, photo)
    assert (between["status"], await statuses(ada, between)) == ("READY", [200] * 4)
    assert [each["name"] for each in between["variants"]] == [each["name"] for each in old["variants"]]

    with working(shop):
        assert (await rerender(shop)).endswith("All is up to date.\n")
        new = await shown(ada, photo)
        made = await fetch(shop, DIGESTS, uuid.UUID(photo))
        assert {row["digest"] for row in made} == {spec.digest for spec in PICTURE_VARIANTS}
        assert (new["status"], new["failure"], await statuses(ada, new)) == ("READY", None, [200] * 4)
        assert new["perceptualHash"] is not None
        # Whoever was given the old URLs may still use them, for as long as they are good.
        assert await statuses(ada, old) == [200] * 4
        late = "SELECT execute_after - now() > interval '59 minutes' AS late FROM pgqueuer WHERE entrypoint = 'erase'"
        assert await fetch(shop, late) == [{"late": True}]
        # Nor do they go while a worker may be making the very same anew, whose rows are still to come.
        await execute(dsn_of(shop), LATER, "ingest", photo)
        await put_off(shop)
        await execute(dsn_of(shop), "DELETE FROM pgqueuer WHERE entrypoint = 'ingest'")
        await execute(dsn_of(shop), "UPDATE media SET status = 'PROCESSING' WHERE id = $1", uuid.UUID(photo))
        await put_off(shop)
        assert await statuses(ada, old) == [200] * 4
        await execute(dsn_of(shop), "UPDATE media SET status = 'READY' WHERE id = $1", uuid.UUID(photo))
        await execute(dsn_of(shop), LATER, "ingest", other)  # which is another's
        await execute(dsn_of(shop), ERASE_NOW)
        async with asyncio.timeout(20):
            while await fetch(shop, TO_ERASE):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await execute(dsn_of(shop), "DELETE FROM pgqueuer")
    assert (await statuses(ada, old), await statuses(ada, new)) == ([404] * 4, [200] * 4)
    # Nobody who watched saw it leave READY; nothing was done with what was up to date.
    assert [row["kind"] for row in await fetch(shop, EVENTS, uuid.UUID(photo))] == [*events, "UPDATED"]
    assert [row["kind"] for row in await fetch(shop, EVENTS, uuid.UUID(other))] == events
    assert await rerender(shop) == "0 to render anew, after all that is uploaded meanwhile.\nAll is up to date.\n"


async def test_what_could_not_be_read_is_tried_again_and_what_cannot_be_done_leaves_the_old(
    shop: Server, ada: Account
) -> None:
    unread, binned = [(await ada.uploaded(photograph(64, 48)))["id"] for _ in range(2)]
    fail = "UPDATE media SET status = 'FAILED', failure_code = 'UNSUPPORTED', failure_message = 'No.' WHERE id = $1"
    for media in (unread, binned):
        await execute(dsn_of(shop), fail, uuid.UUID(media))
    await execute(dsn_of(shop), "UPDATE media SET deleted_at = now() WHERE id = $1", uuid.UUID(binned))
    await execute(dsn_of(shop), "DELETE FROM pgqueuer")
    with working(shop) as log:
        spoilt = (await ada.uploaded(photograph(64, 48)))["id"]
        await ada.settled(spoilt)
        await age(shop, spoilt)
        rows = await fetch(shop, "SELECT storage_key FROM media WHERE id = $1", uuid.UUID(spoilt))
        (shop.data_dir / "files" / rows[0]["storage_key"]).write_bytes(photograph(64, 48))
        assert (await rerender(shop)).startswith("2 to render anew")
        assert "The stored file has changed since it was uploaded." in log.read_text()
    assert (await shown(ada, unread))["status"] == "READY"
    assert (await shown(ada, binned))["failure"] == {"code": "UNSUPPORTED"}
    kept = await shown(ada, spoilt)
    assert (kept["status"], await statuses(ada, kept)) == ("READY", [200] * 4)
    assert {row["digest"] for row in await fetch(shop, DIGESTS, uuid.UUID(spoilt))} == {OLD}
