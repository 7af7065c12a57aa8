"""A film in the making: its poster is seen long before it ends, it is in nobody's way, and a stop costs no attempt."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Final

import pytest

from processing import kinds
from tests.client import Account, Json, admitted
from tests.footprint import fetch
from tests.pictures import photograph
from tests.postgres import create_database, drop_database
from tests.processing.filmfiles import Film
from tests.processing.pictures import quadrants
from tests.server import Server, running, working

pytestmark = pytest.mark.xdist_group("films")  # one server

SECONDS: Final = 60
# In MPEG-4, which must be encoded anew: that takes a few seconds.
FILM: Final = Film(type=kinds.AVI, codec="mpeg4", pictures=[quadrants(480, 360)] * SECONDS * 25, rate=25, sound=None)
SHORT: Final = Film(type=kinds.AVI, codec="mpeg4", pictures=[quadrants(64, 48)] * 25, rate=25, sound=None)
WATCH: Final = """
    subscription($id: ID!) { mediaProcessing(mediaId: $id) {
        status stage percent media { variants { name url } }
    } }
"""
SEEN: Final = "query($id: ID!) { media(id: $id) { variants { name } } }"
ROW: Final = "SELECT status, processing_attempts FROM media WHERE id = $1"


@pytest.fixture(scope="module")
async def shop(server_dsn: str, worker_name: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    name = f"films_{worker_name}"
    dsn = await create_database(server_dsn, name)
    with running(tmp_path_factory.mktemp("films"), dsn, worker=False, processes=1) as server:
        yield server
    await drop_database(server_dsn, name)


@pytest.fixture
async def ada(shop: Server) -> AsyncIterator[Account]:
    async with admitted(shop, "Ada") as account:
        yield account


async def until_seen(account: Account, media: str) -> None:
    """Until there is a poster of it, and no stream yet."""
    async with asyncio.timeout(20):
        while "POSTER" not in (seen := names(await account.ask(SEEN, id=media))):  # noqa: ASYNC110  # no event for it
            await asyncio.sleep(0.05)
    assert "STREAM" not in seen


def names(update: Json) -> list[str]:
    return [variant["name"] for variant in update.get("media", update)["variants"]]


async def test_a_film_is_seen_while_it_is_made_and_stops_with_its_worker(shop: Server, ada: Account) -> None:
    media = await ada.uploaded(FILM.encoded(), "film.avi")
    told: list[Json] = []
    async with ada.socket() as socket:
        updates = socket.subscribe(WATCH, id=media["id"])
        with working(shop):
            async for update in updates:
                told.append(update["mediaProcessing"])
                # What is told may be of a moment ago; the media is as it is by now.
                if "POSTER" in names(told[-1]) and told[-1]["stage"] == "RENDERING":
                    break
            assert told[-1]["status"] == "PROCESSING"
            assert "STREAM" not in names(told[-1])
            poster = next(each for each in told[-1]["media"]["variants"] if each["name"] == "POSTER")
            assert (await ada.http.get(poster["url"])).headers["content-type"] == "image/webp"
            # With one decoder and a film at work a photograph is done at once, and another film is to be seen.
            photo = await ada.settled((await ada.uploaded(photograph(64, 48)))["id"])
            assert photo["status"] == "READY"
            await until_seen(ada, (await ada.uploaded(SHORT.encoded(), "short.avi"))["id"])
            assert (await fetch(shop, ROW, uuid.UUID(media["id"])))[0]["status"] == "PROCESSING"
        # Told to stop, the worker gave the film back.
        assert await fetch(shop, ROW, uuid.UUID(media["id"])) == [{"status": "PROCESSING", "processing_attempts": 0}]
        assert (await ada.http.get(poster["url"])).status_code == 200
        with working(shop) as log:
            told += [update["mediaProcessing"] async for update in updates]
        assert "ERROR" not in log.read_text()
    assert [update["stage"] for update in told if update["stage"] in {"QUEUED", "FETCHING"}] == [
        *("QUEUED", "FETCHING"),
        "QUEUED",
    ]
    until = [update["stage"] for update in told].index("QUEUED", 1)
    for attempt in (told[:until], told[until:]):
        percents = [update["percent"] for update in attempt]
        assert percents == sorted(percents)
    assert len({percent for percent in percents if 20 < percent < 85}) > 1
    assert (told[-1]["status"], names(told[-1])) == (
        "READY",
        ["THUMBNAIL", "SMALL", "MEDIUM", "POSTER", "PREVIEW", "STREAM"],
    )
    assert await fetch(shop, ROW, uuid.UUID(media["id"])) == [{"status": "READY", "processing_attempts": 1}]
    film = await ada.ask(
        "query($id: ID!) { media(id: $id) { kind width height duration exif dominantColor } }", id=media["id"]
    )
    assert (film["kind"], film["width"], film["height"]) == ("VIDEO", 480, 360)
    assert film["duration"] == pytest.approx(SECONDS, abs=0.1)
    assert film["exif"]["VideoCodec"] == "mpeg4"
