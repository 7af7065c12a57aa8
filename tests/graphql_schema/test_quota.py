"""What an account may keep: all its bytes counted, those that are still to come too."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.client import Account, Json, deliver, register
from tests.footprint import fetch, footprint
from tests.graphql_schema.conftest import MIB
from tests.graphql_schema.rows import dsn_of, execute
from tests.graphql_schema.test_media import DELETE
from tests.graphql_schema.test_profiles import CREATE
from tests.graphql_schema.test_trash import PURGE, RESTORE
from tests.graphql_schema.test_upload_sessions import SMALL, THREE_PARTS, picture
from tests.pictures import photograph
from tests.server import Server, running

USAGE = "{ viewer { storage { mediaCount originalBytes variantBytes trashBytes quotaBytes } } }"
NOTHING = {"mediaCount": 0, "originalBytes": 0, "variantBytes": 0, "trashBytes": 0, "quotaBytes": None}
LOSE = """UPDATE media SET lost_at = now(), status = 'FAILED', failure_code = 'STORAGE', failure_message = 'Gone.'
    WHERE id = $1"""


async def allow(server: Server, who: Account, quota: int | None) -> None:
    await execute(dsn_of(server), "UPDATE user_account SET quota_bytes = $1 WHERE id = $2", quota, uuid.UUID(who.id))


async def usage(who: Account) -> Json:
    storage: Json = (await who.ask(USAGE))["storage"]
    return storage


async def stored(server: Server, who: Account) -> int:
    """Bytes of theirs that are written down: originals that are there or promised, and variants."""
    (row,) = await fetch(
        server,
        "SELECT (SELECT coalesce(sum(size_bytes), 0) FROM media WHERE owner = $1 AND lost_at IS NULL)"
        " + (SELECT coalesce(sum(variant.size_bytes), 0) FROM variant JOIN media ON media.id = variant.media"
        " WHERE owner = $1) AS bytes",
        uuid.UUID(who.id),
    )
    return int(row["bytes"])


def full(left: str, *path: str) -> Json:
    message = f"Your account has {left} MiB left, and this takes more."
    return {"code": "QUOTA_EXCEEDED", "message": message, "path": ["input", *path]}


async def fits_exactly(server: Server, who: Account, room: int) -> None:
    """There is room for so many bytes more, and for none besides."""
    before = await footprint(server)
    error = full(f"{room * 10 // MIB / 10:g}", "sizeBytes")
    assert await who.begin(room + 1) == {"session": None, "duplicateOf": None, "errors": [error]}
    assert await footprint(server) == before
    session = await who.begun(room)
    assert (await who.abort(session["id"]))["errors"] == []


# ---------------------------------------------------------------- viewer.storage


async def test_what_is_to_come_and_what_is_gone_take_no_room(unattended: Server, ida: Account) -> None:
    content = photograph(30, 20)
    kept = await ida.uploaded(content)
    lost, trashed, lost_there = [(await ida.uploaded(photograph(30, 20)))["id"] for _ in range(3)]
    sizes = dict.fromkeys((lost, trashed, lost_there), 0)
    for row in await fetch(unattended, "SELECT id, size_bytes FROM media WHERE owner = $1", uuid.UUID(ida.id)):
        sizes[str(row["id"])] = row["size_bytes"]
    pending = (await ida.begun(SMALL))["media"]["id"]
    await ida.ask(DELETE, ids=[trashed, lost_there, (await ida.begun(SMALL))["media"]["id"]])
    for media_id in (lost, lost_there):
        await execute(dsn_of(unattended), LOSE, uuid.UUID(media_id))
    expected = {**NOTHING, "mediaCount": 1, "originalBytes": len(content), "trashBytes": sizes[trashed]}
    assert await usage(ida) == expected

    # What was rendered of a lost one is there still.
    variant = """INSERT INTO variant (id, media, name, digest, content_type, width, height, size_bytes, storage_key)
        VALUES (gen_random_uuid(), $1, 'SMALL', 'digest', 'image/webp', 9, 9, $2, $1::text)"""
    for media_id, size in ((lost, 7), (lost_there, 11), (kept["id"], 13)):
        await execute(dsn_of(unattended), variant.replace("$1::text", f"'{media_id}'"), uuid.UUID(media_id), size)
    expected |= {"variantBytes": 7 + 13, "trashBytes": sizes[trashed] + 11}
    assert await usage(ida) == expected
    await ida.ask(RESTORE, ids=[trashed])
    expected |= {"mediaCount": 2, "originalBytes": len(content) + sizes[trashed], "trashBytes": 11}
    assert await usage(ida) == expected
    await ida.ask(DELETE, ids=[pending])
    assert await usage(ida) == expected


async def test_new_accounts_get_the_quota_of_the_setting(unattended: Server, tmp_path: Path) -> None:
    with running(tmp_path, dsn_of(unattended), worker=False, quota_bytes=12_345) as server:
        async with register(server.url, "Eve") as eve:
            assert await usage(eve) == {**NOTHING, "quotaBytes": 12_345}
    async with register(unattended.url, "Eve") as eve:
        assert await usage(eve) == NOTHING


# ---------------------------------------------------------------- to the byte


async def test_a_file_fits_to_the_byte(unattended: Server, ida: Account) -> None:
    content = picture(2 * MIB)
    await allow(unattended, ida, len(content) - 1)
    before = await footprint(unattended)
    refused = {"media": None, "duplicateOf": None, "errors": [full("1.9", "file")]}
    assert await ida.upload(content) == refused
    assert await footprint(unattended) == before
    await allow(unattended, ida, len(content))
    media = await ida.uploaded(content)
    assert await usage(ida) == {
        **NOTHING,
        "mediaCount": 1,
        "originalBytes": len(content),
        "quotaBytes": len(content),
    }
    # Full: nothing more fits in, and what is there already need not.
    before = await footprint(unattended)
    assert (await ida.upload(photograph(30, 20)))["errors"] == [full("0", "file")]
    assert (await ida.upload(content))["duplicateOf"] == {"id": media["id"]}
    assert await footprint(unattended) == before


async def test_an_account_that_is_overfull_keeps_what_it_has(unattended: Server, ida: Account) -> None:
    media = await ida.uploaded(photograph(30, 20))
    await allow(unattended, ida, 1)
    assert (await ida.upload(photograph(30, 20)))["errors"] == [full("0", "file")]
    await ida.ask(DELETE, ids=[media["id"]])
    (result,) = (await ida.ask(RESTORE, ids=[media["id"]]))["results"]
    assert result["errors"] == []
    await allow(unattended, ida, None)
    await ida.uploaded(photograph(30, 20))


async def test_all_that_is_stored_counts(server: Server, ada: Account) -> None:
    """Originals, variants, and the trash, until it is purged; one's own, and nobody else's."""
    async with register(server.url, "Bob") as bob:
        await bob.uploaded(photograph(300, 200))
    kept, gone = [await ada.settled((await ada.uploaded(photograph(300, 200)))["id"]) for _ in range(2)]
    sizes = [media["sizeBytes"] + sum(each["sizeBytes"] for each in media["variants"]) for media in (kept, gone)]
    assert min(sizes) > min(kept["sizeBytes"], gone["sizeBytes"])
    room = 100_000
    await allow(server, ada, sum(sizes) + room)
    await fits_to_the_byte(ada, room)
    await ada.ask(DELETE, ids=[gone["id"]])
    await fits_to_the_byte(ada, room)
    await ada.ask(PURGE, ids=[gone["id"]])
    await fits_to_the_byte(ada, room + sizes[1])
    await execute(dsn_of(server), LOSE, uuid.UUID(kept["id"]))
    await fits_to_the_byte(ada, room + sizes[1] + kept["sizeBytes"])


async def fits_to_the_byte(who: Account, room: int) -> None:
    """As `fits_exactly`, where a worker is about."""
    assert [error["code"] for error in (await who.begin(room + 1))["errors"]] == ["QUOTA_EXCEEDED"]
    session = await who.begun(room)
    assert (await who.abort(session["id"]))["errors"] == []


async def test_what_is_promised_counts_until_it_has_come_or_never_will(unattended: Server, ida: Account) -> None:
    room = 4 * MIB
    await allow(unattended, ida, room + SMALL)
    session = await ida.begun(SMALL)
    await fits_exactly(unattended, ida, room)
    await deliver(session, picture(SMALL))
    await fits_exactly(unattended, ida, room)
    media = await ida.completed(session["id"])
    await fits_exactly(unattended, ida, room)
    await ida.ask(DELETE, ids=[media["id"]])
    await ida.ask(PURGE, ids=[media["id"]])
    await fits_exactly(unattended, ida, room + SMALL)

    promised = (await ida.begun(SMALL))["media"]["id"]
    await ida.ask(DELETE, ids=[promised])
    await fits_exactly(unattended, ida, room)
    await ida.ask(PURGE, ids=[promised])
    await fits_exactly(unattended, ida, room + SMALL)


async def test_a_session_of_many_parts_that_does_not_fit_is_not_begun(unattended: Server, ida: Account) -> None:
    await allow(unattended, ida, THREE_PARTS - 1)
    before = await footprint(unattended)
    assert (await ida.begin(THREE_PARTS))["errors"] == [full("16.9", "sizeBytes")]
    assert await footprint(unattended) == before


async def test_each_file_of_a_batch_for_itself(unattended: Server, ida: Account) -> None:
    files = [("one.jpg", picture(SMALL)), ("large.jpg", picture(3 * SMALL)), ("two.jpg", picture(SMALL))]
    await allow(unattended, ida, 2 * SMALL)
    results = (await ida.upload_batch(files))["results"]
    assert [result["errors"] for result in results] == [[], [full("0", "files", "1")], []]
    assert await stored(unattended, ida) == 2 * SMALL


async def test_the_pictures_of_a_profile(unattended: Server, ida: Account) -> None:
    """Each would fit in, and not both; whoever owns the person."""
    person = await ida.person()
    await allow(unattended, ida, 2 * SMALL - 1)
    before = await footprint(unattended)
    files = {f"input.{name}": (f"{name}.jpg", picture(SMALL)) for name in ("avatar", "cover")}
    variables = {"input": {"personId": person["id"], "avatar": None, "cover": None}}
    payload = await ida.send_files(CREATE, variables, files)
    assert payload == {"profile": None, "errors": [full("0", "cover")]}
    assert await footprint(unattended) == before
    await allow(unattended, ida, 2 * SMALL)
    assert (await ida.send_files(CREATE, variables, files))["errors"] == []


async def test_what_others_place_is_theirs_to_pay(unattended: Server, ida: Account, bob: Account) -> None:
    person = await ida.person()
    await execute(dsn_of(unattended), "UPDATE user_account SET role = 'ADMIN' WHERE id = $1", uuid.UUID(bob.id))
    await allow(unattended, ida, 1)
    placed = await bob.uploaded(picture(SMALL), entityId=person["id"])
    assert placed["owner"] == {"id": bob.id}
    assert await usage(ida) == {**NOTHING, "quotaBytes": 1}
    assert (await usage(bob))["originalBytes"] == SMALL


# ---------------------------------------------------------------- at once


@pytest.mark.parametrize("fitting", [0, 1, 4, 9, 10])
async def test_of_ten_uploads_at_once_as_many_as_fit(unattended: Server, ida: Account, fitting: int) -> None:
    quota = fitting * SMALL + SMALL // 2
    await allow(unattended, ida, quota)
    before = await footprint(unattended)
    answers = await asyncio.gather(*(ida.upload(picture(SMALL), f"{number}.jpg") for number in range(10)))
    refused = [answer["errors"] for answer in answers if answer["media"] is None]
    assert refused == [[full("0", "file")]] * (10 - fitting)
    assert await stored(unattended, ida) == fitting * SMALL
    after = await footprint(unattended)
    assert (after.media - before.media, after.events - before.events, after.jobs - before.jobs) == (fitting,) * 3
    assert (len(after.objects - before.objects), after.scratch) == (fitting, before.scratch)


async def test_uploads_and_sessions_at_once_have_one_room(unattended: Server, ida: Account) -> None:
    await allow(unattended, ida, 7 * SMALL)
    before = await footprint(unattended)
    profiles = [await ida.profile((await ida.person())["id"]) for _ in range(3)]
    work: list[Any] = []
    for profile in profiles:
        place = {"entityId": profile["id"], "slot": "avatar"}
        work += [ida.upload(picture(SMALL), **place), ida.begin(SMALL, **place), ida.begin(SMALL)]
        work += [ida.upload(picture(SMALL))]
    answers = await asyncio.gather(*work)
    codes = [error["code"] for answer in answers for error in answer["errors"]]
    assert (codes, len(answers)) == (["QUOTA_EXCEEDED"] * 5, 12)
    assert await stored(unattended, ida) == 7 * SMALL
    after = await footprint(unattended)
    begun = after.sessions - before.sessions
    assert after.media - before.media == 7
    assert len(after.objects - before.objects) == 7 - begun
    assert after.jobs - before.jobs == 7 - begun


async def test_one_that_waits_sees_what_the_other_took(unattended: Server, ida: Account) -> None:
    """Sessions in parts: a refusal leaves no upload behind that was begun at the storage."""
    await allow(unattended, ida, 2 * THREE_PARTS)
    before = await footprint(unattended)
    answers = await asyncio.gather(*(ida.begin(THREE_PARTS) for _ in range(6)))
    assert sorted(len(answer["errors"]) for answer in answers) == [0, 0, 1, 1, 1, 1]
    assert await stored(unattended, ida) == 2 * THREE_PARTS
    after = await footprint(unattended)
    uploads = {name.split("/")[1] for name in after.objects - before.objects}
    assert uploads == {answer["session"]["uploadId"] for answer in answers if answer["session"]}
