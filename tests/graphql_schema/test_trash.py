"""Out of the trash: back to where it was, or for good, with every byte."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from app import trash
from app.db import LOCK_TIMEOUT_MS
from app.settings import load
from app.wiring import open_services
from tests.client import Account, Json, deliver
from tests.footprint import fetch, footprint
from tests.graphql_schema.rows import EPOCH, dsn_of, execute, insert_media
from tests.graphql_schema.test_media import DELETE, GET, NOT_FOUND, on_each, updated
from tests.graphql_schema.test_upload_sessions import (
    PROFILE,
    SMALL,
    THREE_PARTS,
    events_of,
    picture,
    until_gone,
)
from tests.pictures import photograph
from tests.server import Server

RESTORE, PURGE = on_each("restoreMedia"), on_each("purgeMedia")
FORBIDDEN = {"code": "FORBIDDEN", "message": "You may not change this media.", "path": None}
DELETE_PERSON = "mutation($id: ID!) { deletePerson(id: $id) { errors { code } } }"
OF_PERSON = "query($id: ID!) { person(id: $id) { media { nodes { id } totalCount } } }"
NOT_IN_TRASH = {
    "code": "BAD_INPUT",
    "message": "Only what is in the trash can be purged: delete it first.",
    "path": ["input", "ids"],
}


async def deleted(who: Account, *ids: str) -> None:
    payload = await who.ask(DELETE, ids=ids)
    assert [result["errors"] for result in payload["results"]] == [[]] * len(ids)


async def restored(who: Account, media_id: str) -> Json:
    (result,) = (await who.ask(RESTORE, ids=[media_id]))["results"]
    assert result["errors"] == []
    media: Json = await who.ask(GET, id=media_id)
    assert (result["media"]["id"], result["media"]["deletedAt"]) == (media["id"], media["deletedAt"])
    return media


async def not_restored(server: Server, who: Account, media_id: str, code: str, message: str) -> None:
    before = await row_of(server, media_id), await footprint(server)
    (result,) = (await who.ask(RESTORE, ids=[media_id]))["results"]
    error = {"code": code, "message": message, "path": ["input", "ids"]}
    assert result == {"index": 0, "id": media_id, "media": None, "errors": [error]}
    assert (await row_of(server, media_id), await footprint(server)) == before


async def purged(who: Account, *ids: str) -> None:
    payload = await who.ask(PURGE, ids=ids)
    assert payload == {
        "results": [
            {"index": index, "id": media_id, "media": None, "errors": []} for index, media_id in enumerate(ids)
        ],
        "errors": [],
    }


async def row_of(server: Server, media_id: str) -> dict[str, Any]:
    (row,) = await fetch(server, "SELECT * FROM media WHERE id = $1", uuid.UUID(media_id))
    return row


async def library_of(who: Account) -> list[str]:
    """Their own: what others have made public is in everybody's library."""
    page = await who.ask("{ library(first: 100) { nodes { id owner { id } } } }")
    return [node["id"] for node in page["nodes"] if node["owner"]["id"] == who.id]


async def trashed(who: Account) -> list[str]:
    page = await who.ask("{ library(filter: {inTrash: true}) { nodes { id } } }")
    return [node["id"] for node in page["nodes"]]


async def erasures(server: Server, text: str) -> list[tuple[Json, bool]]:
    """What each job that names this text is to erase, and whether not before a later time."""
    rows = await fetch(
        server,
        "SELECT convert_from(payload, 'UTF8') AS payload, execute_after > now() + interval '15 minutes' AS later"
        " FROM pgqueuer WHERE entrypoint = 'erase' AND convert_from(payload, 'UTF8') LIKE $1 ORDER BY id",
        f"%{text}%",
    )
    return [(json.loads(row["payload"]), row["later"]) for row in rows]


# ---------------------------------------------------------------- restoreMedia


async def test_out_of_the_trash_to_where_it_was(unattended: Server, ida: Account) -> None:
    person = await ida.person()
    media = await ida.uploaded(photograph(30, 20), entityId=person["id"], slot="documents", tags=["kept"])
    await updated(ida, media["id"], isPrimary=True)
    await deleted(ida, media["id"])
    assert (await ida.ask(OF_PERSON, id=person["id"]))["media"] == {"nodes": [], "totalCount": 0}

    back = await restored(ida, media["id"])
    assert back == {**media, "updatedAt": back["updatedAt"]}
    assert back["updatedAt"] > media["updatedAt"]
    assert (await ida.ask(OF_PERSON, id=person["id"]))["media"] == {"nodes": [{"id": media["id"]}], "totalCount": 1}
    assert (await library_of(ida), await trashed(ida)) == ([media["id"]], [])

    # What is not in the trash stays as it is.
    before = await footprint(unattended)
    assert await restored(ida, media["id"]) == back
    assert await footprint(unattended) == before
    assert await events_of(unattended, media["id"]) == ["UPLOADED", "UPDATED", "TRASHED", "RESTORED"]
    (event,) = await fetch(
        unattended, "SELECT entity, owner FROM event WHERE media = $1 AND kind = 'RESTORED'", uuid.UUID(media["id"])
    )
    assert {name: str(value) for name, value in event.items()} == {"entity": person["id"], "owner": ida.id}


async def test_out_of_the_trash_each_for_itself(ida: Account, bob: Account) -> None:
    mine, kept = [await ida.uploaded(photograph(30, 20)) for _ in range(2)]
    his = await bob.uploaded(photograph(30, 20), isPublic=True)
    hidden = await bob.uploaded(photograph(30, 20))
    await deleted(bob, hidden["id"])
    await deleted(ida, mine["id"])
    unknown = str(uuid.uuid4())
    payload = await ida.ask(RESTORE, ids=[mine["id"], his["id"], hidden["id"], unknown, kept["id"], "17", mine["id"]])
    there = {"status": "UPLOADED", "deletedAt": None, "failure": None}
    assert payload == {
        "results": [
            {"index": 0, "id": mine["id"], "media": {"id": mine["id"], **there}, "errors": []},
            {"index": 1, "id": his["id"], "media": None, "errors": [FORBIDDEN]},
            {"index": 2, "id": hidden["id"], "media": None, "errors": [NOT_FOUND]},
            {"index": 3, "id": unknown, "media": None, "errors": [NOT_FOUND]},
            {"index": 4, "id": kept["id"], "media": {"id": kept["id"], **there}, "errors": []},
            {"index": 5, "id": "17", "media": None, "errors": [NOT_FOUND]},
            {"index": 6, "id": mine["id"], "media": {"id": mine["id"], **there}, "errors": []},
        ],
        "errors": [],
    }
    assert await trashed(bob) == [hidden["id"]]


@pytest.mark.parametrize("change", [RESTORE, PURGE])
async def test_how_many_at_once(ida: Account, change: str) -> None:
    assert await ida.ask(change, ids=[]) == {"results": [], "errors": []}
    ids = [str(uuid.uuid4()) for _ in range(101)]
    assert len((await ida.ask(change, ids=ids[:100]))["results"]) == 100
    error = {"code": "BAD_INPUT", "message": "Up to 100 ids at once.", "path": ["input", "ids"]}
    assert await ida.ask(change, ids=ids) == {"results": [], "errors": [error]}


async def test_what_has_lost_its_entity_comes_back_to_the_library(unattended: Server, ida: Account) -> None:
    person = await ida.person()
    profile = await ida.profile(person["id"])
    photo = await ida.uploaded(photograph(30, 20), entityId=person["id"])
    avatar = await ida.uploaded(photograph(30, 20), entityId=profile["id"], slot="avatar")
    assert await ida.ask(DELETE_PERSON, id=person["id"]) == {"errors": []}
    assert (await library_of(ida), set(await trashed(ida))) == ([], {photo["id"], avatar["id"]})
    for media in (photo, avatar):
        back = await restored(ida, media["id"])
        assert (back["entity"], back["slot"], back["deletedAt"]) == (None, None, None)
        assert await events_of(unattended, media["id"]) == ["UPLOADED", "TRASHED", "RESTORED"]
    assert await library_of(ida) == [avatar["id"], photo["id"]]


async def test_bytes_that_the_library_has_come_back_all_the_same(unattended: Server, ida: Account) -> None:
    content = photograph(30, 20)
    person = await ida.person()
    profile = await ida.profile(person["id"])
    first = await ida.uploaded(content)
    avatar = await ida.uploaded(content, entityId=profile["id"], slot="avatar")
    await ida.ask(DELETE_PERSON, id=person["id"])
    back = await restored(ida, avatar["id"])
    assert (back["slot"], back["sha256"]) == (None, first["sha256"])
    assert await library_of(ida) == [avatar["id"], first["id"]]
    copies = [(await row_of(unattended, media["id"]))["is_copy"] for media in (first, avatar)]
    assert copies == [False, True]
    # And there they stay, each for itself.
    await deleted(ida, first["id"])
    await purged(ida, first["id"])
    assert await library_of(ida) == [avatar["id"]]
    again = await ida.upload(content)
    assert again["duplicateOf"] == {"id": avatar["id"]}


async def test_an_avatar_comes_back_once_its_place_is_free(unattended: Server, ida: Account) -> None:
    profile = await ida.profile((await ida.person())["id"])
    place = {"entityId": profile["id"], "slot": "avatar"}
    old = await ida.uploaded(photograph(30, 20), **place)
    await deleted(ida, old["id"])
    new = await ida.uploaded(photograph(30, 20), **place)
    taken = "The slot “avatar” holds another now: remove that one first."
    await not_restored(unattended, ida, old["id"], "CONFLICT", taken)
    assert (await ida.ask(PROFILE, id=profile["id"]))["avatar"] == {"id": new["id"]}

    await deleted(ida, new["id"])
    assert (await restored(ida, old["id"]))["slot"] == "avatar"
    assert (await ida.ask(PROFILE, id=profile["id"]))["avatar"] == {"id": old["id"]}
    assert await trashed(ida) == [new["id"]]


async def test_of_two_avatars_that_come_back_at_once_one_does(ida: Account) -> None:
    profile = await ida.profile((await ida.person())["id"])
    both = []
    for _ in range(2):
        both.append((await ida.uploaded(photograph(30, 20), entityId=profile["id"], slot="avatar"))["id"])
        await deleted(ida, both[-1])
    answers = await asyncio.gather(*(ida.ask(RESTORE, ids=[media_id]) for media_id in both))
    codes = [[error["code"] for error in answer["results"][0]["errors"]] for answer in answers]
    assert sorted(codes) == [[], ["CONFLICT"]]
    assert (await ida.ask(PROFILE, id=profile["id"]))["avatar"] == {"id": both[codes.index([])]}


async def test_what_has_no_bytes_any_more_does_not_come_back(unattended: Server, ida: Account) -> None:
    media = await ida.uploaded(photograph(30, 20))
    await deleted(ida, media["id"])
    gone = """UPDATE media SET lost_at = now(), status = 'FAILED', failure_code = 'STORAGE', failure_message = 'Gone.'
        WHERE id = $1"""
    await execute(dsn_of(unattended), gone, uuid.UUID(media["id"]))
    message = "The bytes of this are gone: it can't be restored."
    await not_restored(unattended, ida, media["id"], "BAD_INPUT", message)
    await purged(ida, media["id"])


async def test_what_is_still_to_come_goes_into_the_trash_and_out(ida: Account) -> None:
    content = picture(SMALL)
    session = await ida.begun(len(content))
    media_id = session["media"]["id"]
    await deleted(ida, media_id)
    back = await restored(ida, media_id)
    assert (back["status"], back["deletedAt"], back["url"]) == ("PENDING", None, None)
    assert await library_of(ida) == []
    await deliver(session, content)
    assert (await ida.completed(session["id"]))["deletedAt"] is None
    assert await library_of(ida) == [media_id]


# ---------------------------------------------------------------- purgeMedia


async def test_only_what_is_in_the_trash_is_purged(unattended: Server, ida: Account, bob: Account) -> None:
    mine, kept = [await ida.uploaded(photograph(30, 20)) for _ in range(2)]
    his = await bob.uploaded(photograph(30, 20), isPublic=True)
    hidden = await bob.uploaded(photograph(30, 20))
    await deleted(ida, mine["id"])
    await deleted(bob, hidden["id"])
    key = (await row_of(unattended, mine["id"]))["storage_key"]
    before = await footprint(unattended)
    unknown = str(uuid.uuid4())
    given = [mine["id"], kept["id"], his["id"], hidden["id"], unknown, "17", mine["id"]]
    errors = [[], [NOT_IN_TRASH], [FORBIDDEN], *([[NOT_FOUND]] * 4)]
    assert await ida.ask(PURGE, ids=given) == {
        "results": [
            {"index": index, "id": media_id, "media": None, "errors": errors[index]}
            for index, media_id in enumerate(given)
        ],
        "errors": [],
    }
    after = await footprint(unattended)
    assert after == replace(before, media=before.media - 1, events=before.events + 1, jobs=before.jobs + 1)
    assert await ida.ask(GET, id=mine["id"]) is None
    assert await events_of(unattended, mine["id"]) == ["UPLOADED", "TRASHED", "PURGED"]
    assert await erasures(unattended, key) == [({"keys": [key], "uploads": [], "variants": []}, False)]
    assert (await library_of(ida), await trashed(ida), await trashed(bob)) == ([kept["id"]], [], [hidden["id"]])


async def test_every_byte_goes_and_no_other(server: Server, ada: Account) -> None:
    gone, kept = [await ada.settled((await ada.uploaded(photograph(300, 200)))["id"]) for _ in range(2)]

    async def objects(media: Json) -> list[Path]:
        keys = await fetch(
            server,
            "SELECT storage_key FROM media WHERE id = $1 UNION SELECT storage_key FROM variant WHERE media = $1",
            uuid.UUID(media["id"]),
        )
        paths = [server.data_dir / "files" / row["storage_key"] for row in keys]
        assert all(path.is_file() for path in paths)
        assert len(paths) == 1 + len(media["variants"]) > 1
        return paths

    going, staying = await objects(gone), await objects(kept)
    for media in (gone, kept):
        await deleted(ada, media["id"])
    assert all(path.is_file() for path in going)  # one can still change one's mind
    await purged(ada, gone["id"])
    await until_gone(server, *(str(path.relative_to(server.data_dir / "files")) for path in going))
    assert all(path.is_file() for path in staying)
    assert (await restored(ada, kept["id"]))["status"] == "READY"
    for url in (gone["url"], *(variant["url"] for variant in gone["variants"])):
        assert (await ada.http.get(url, headers={"authorization": ""})).status_code == 404


@pytest.mark.parametrize("size", [SMALL, THREE_PARTS], ids=["single", "multipart"])
async def test_an_upload_that_is_open_goes_with_its_media(unattended: Server, ida: Account, size: int) -> None:
    content = picture(size)
    session = await ida.begun(size)
    await deliver(session, content)
    media_id = session["media"]["id"]
    key = (await row_of(unattended, media_id))["storage_key"]
    await deleted(ida, media_id)
    await purged(ida, media_id)
    if session["uploadId"]:
        uploads = [[key, session["uploadId"]]]
        assert await erasures(unattended, key) == [({"keys": [key], "uploads": uploads, "variants": []}, False)]
    else:
        staged = f"incoming/{session['id']}.jpg"
        # Once more when no URL is good any longer.
        late = ({"keys": [staged], "uploads": [], "variants": []}, True)
        assert await erasures(unattended, staged) == [
            ({"keys": [key, staged], "uploads": [], "variants": []}, False),
            late,
        ]
    assert await ida.ask(GET, id=media_id) is await ida.found(session["id"]) is None
    between = await footprint(unattended)
    error = {"code": "NOT_FOUND", "message": "There is no such upload session.", "path": ["input", "sessionId"]}
    assert await ida.complete(session["id"]) == {"media": None, "duplicateOf": None, "errors": [error]}
    assert await footprint(unattended) == between


@pytest.mark.parametrize("size", [SMALL, THREE_PARTS], ids=["single", "multipart"])
async def test_the_bytes_of_an_upload_that_is_open_go(server: Server, ada: Account, size: int) -> None:
    session = await ada.begun(size)
    await deliver(session, picture(size))
    folder = f".uploads/{session['uploadId']}" if session["uploadId"] else f"incoming/{session['id']}.jpg"
    assert (server.data_dir / "files" / folder).exists()
    await deleted(ada, session["media"]["id"])
    await purged(ada, session["media"]["id"])
    await until_gone(server, folder)


@pytest.mark.parametrize("size", [SMALL, THREE_PARTS], ids=["single", "multipart"])
async def test_a_purge_and_a_completion_at_once(server: Server, ada: Account, size: int) -> None:
    """Whoever is first, neither waits for the other for ever, and in the end nothing is there: no row and no byte."""
    sessions = [await ada.begun(size) for _ in range(6)]
    for session in sessions:
        await deliver(session, picture(size))
        await deleted(ada, session["media"]["id"])
    assert stored_of(server, ada, sessions) != []
    work = [ada.complete(session["id"]) for session in sessions]
    work += [ada.ask(PURGE, ids=[session["media"]["id"]]) for session in sessions]
    answers = await asyncio.gather(*work)
    for session, completion, purge in zip(sessions, answers[:6], answers[6:], strict=True):
        assert purge["results"] == [{"index": 0, "id": session["media"]["id"], "media": None, "errors": []}]
        assert [error["message"] for error in completion["errors"]] in ([], ["There is no such upload session."])
        assert await ada.ask(GET, id=session["media"]["id"]) is None
        assert await ada.found(session["id"]) is None
    assert await trashed(ada) == []
    async with asyncio.timeout(30):
        while stored_of(server, ada, sessions):  # noqa: ASYNC110 - a file tells nobody
            await asyncio.sleep(0.05)


def stored_of(server: Server, who: Account, sessions: Sequence[Json]) -> list[str]:
    """Of an account without entities: its keys have its id in them, and what its uploads wait in has theirs."""
    ids = {who.id, *(session["uploadId"] or session["id"] for session in sessions)}
    paths = (str(path) for path in (server.data_dir / "files").rglob("*") if not path.is_dir())
    return [path for path in paths if any(each in path for each in ids)]


async def test_a_purge_and_a_restoration_at_once(unattended: Server, ida: Account) -> None:
    media = [(await ida.uploaded(photograph(30, 20)))["id"] for _ in range(6)]
    await deleted(ida, *media)
    answers = await asyncio.gather(*(ida.ask(change, ids=[each]) for each in media for change in (RESTORE, PURGE)))
    for index, media_id in enumerate(media):
        back, gone = [[error["code"] for error in answers[2 * index + n]["results"][0]["errors"]] for n in range(2)]
        assert (back, gone) in {0: ([], ["BAD_INPUT"]), 1: (["NOT_FOUND"], [])}.values()
        assert (await ida.ask(GET, id=media_id) is None) == (gone == [])
        kinds = ["UPLOADED", "TRASHED", "PURGED" if gone == [] else "RESTORED"]
        assert await events_of(unattended, media_id) == kinds


# ---------------------------------------------------------------- what empties itself


async def test_what_was_in_the_trash_for_long_is_purged_once(unattended: Server, ida: Account) -> None:
    """By several workers at once, more than one batch of it; and nothing a second too early."""
    long_ago = [{"deleted_at": EPOCH} for _ in range(trash.PURGE_BATCH + 10)]
    old = await insert_media(dsn_of(unattended), ida.id, [*long_ago, {"deleted_at": EPOCH + timedelta(seconds=1)}])
    last, old = old[-1], old[:-1]
    kept = await insert_media(dsn_of(unattended), ida.id, [{}])
    session = await ida.begun(SMALL)
    await deliver(session, picture(SMALL))
    pending = session["media"]["id"]
    await deleted(ida, pending)
    await execute(dsn_of(unattended), "UPDATE media SET deleted_at = $1 WHERE id = $2", EPOCH, uuid.UUID(pending))
    before = await footprint(unattended)
    async with open_services(load(unattended.environment), dsn=dsn_of(unattended)) as services:
        due = EPOCH + services.settings.trash_retention + timedelta(seconds=1)
        await trash.purge_expired(replace(services, clock=lambda: due - timedelta(seconds=1)))
        assert await footprint(unattended) == before
        workers = [replace(services, clock=lambda: due) for _ in range(3)]
        await asyncio.gather(*map(trash.purge_expired, workers))
        await trash.purge_expired(workers[0])
    rows = await fetch(unattended, "SELECT id::text FROM media WHERE owner = $1", uuid.UUID(ida.id))
    assert {row["id"] for row in rows} == {last, *kept}
    events = await fetch(
        unattended,
        "SELECT media::text FROM event WHERE kind = 'PURGED' AND owner = $1 ORDER BY media",
        uuid.UUID(ida.id),
    )
    assert [event["media"] for event in events] == sorted([*old, pending])
    erased = [key for payload, later in await erasures(unattended, "tests/") if not later for key in payload["keys"]]
    assert len([key for key in erased if key.startswith("tests/")]) == len(old)
    staged = f"incoming/{session['id']}.jpg"
    assert [later for _, later in await erasures(unattended, staged)] == [False, True]
    assert (await footprint(unattended)).sessions == before.sessions - 1


async def test_what_somebody_holds_is_in_no_others_way(unattended: Server, ida: Account) -> None:
    rows = [{"deleted_at": EPOCH + timedelta(seconds=number)} for number in range(3)]
    held, *others = await insert_media(dsn_of(unattended), ida.id, rows)
    connection = await asyncpg.connect(dsn_of(unattended))
    async with open_services(load(unattended.environment), dsn=dsn_of(unattended)) as services:
        async with connection.transaction():
            await connection.execute("SELECT FROM media WHERE id = $1 FOR UPDATE", uuid.UUID(held))
            async with asyncio.timeout(LOCK_TIMEOUT_MS / 2000):
                await trash.purge_expired(services)
            assert [await events_of(unattended, one) for one in (held, *others)] == [[], ["PURGED"], ["PURGED"]]
        await trash.purge_expired(services)
    await connection.close()
    assert await events_of(unattended, held) == ["PURGED"]


# ---------------------------------------------------------------- slots for one


async def test_a_slot_is_cleared_of_what_is_there_and_not_of_what_is_to_come(unattended: Server, ida: Account) -> None:
    profile = await ida.profile((await ida.person())["id"])
    place = {"entityId": profile["id"], "slot": "avatar"}
    content = picture(SMALL)
    shown = await ida.sent(content, **place)
    promised, aborted = [await ida.begun(SMALL, **place) for _ in range(2)]
    await ida.abort(aborted["id"])
    clear = "mutation($id: ID!) { updateProfile(input: {id: $id, avatar: null}) { profile { id } errors { code } } }"
    assert (await ida.ask(clear, id=profile["id"]))["errors"] == []
    assert (await ida.ask(PROFILE, id=profile["id"]))["avatar"] is None
    assert await ida.ask(GET, id=shown["id"]) is None
    # An abort's answer stays for whoever asks what became of it.
    assert (await ida.found(aborted["id"]))["state"] == "ABORTED"
    assert (await ida.found(promised["id"]))["state"] == "OPEN"
    await deliver(promised, picture(SMALL))
    media = await ida.completed(promised["id"])
    assert (await ida.ask(PROFILE, id=profile["id"]))["avatar"] == {"id": media["id"]}


async def test_an_avatar_that_was_lost_gives_way_for_good(unattended: Server, ida: Account) -> None:
    profile = await ida.profile((await ida.person())["id"])
    place = {"entityId": profile["id"], "slot": "avatar"}
    lost = await ida.uploaded(photograph(30, 20), **place)
    gone = """UPDATE media SET lost_at = now(), status = 'FAILED', failure_code = 'STORAGE', failure_message = 'Gone.'
        WHERE id = $1"""
    await execute(dsn_of(unattended), gone, uuid.UUID(lost["id"]))
    assert (await ida.ask(PROFILE, id=profile["id"]))["avatar"] is None
    new = await ida.uploaded(photograph(30, 20), **place)
    assert (await ida.ask(PROFILE, id=profile["id"]))["avatar"] == {"id": new["id"]}
    assert await ida.ask(GET, id=lost["id"]) is None
    assert await events_of(unattended, lost["id"]) == ["UPLOADED", "PURGED"]
