"""Media moved to an entity: all of it, or none."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from typing import Any

import pytest

from tests.client import Account, Client, Json
from tests.footprint import fetch, footprint
from tests.graphql_schema.conftest import MIB
from tests.graphql_schema.rows import dsn_of, execute, insert_media
from tests.graphql_schema.test_media import DELETE, GET, primaries, updated
from tests.graphql_schema.test_trash import erasures
from tests.graphql_schema.test_upload_sessions import PROFILE, SMALL, events_of
from tests.pictures import photograph, tiny_mp4, tiny_pdf
from tests.server import Server

ATTACH = """mutation($input: AttachMediaInput!) { attachMedia(input: $input) {
    results { index id media { id slot entity { id } } errors { code message path } }
    errors { code message path } } }"""
MEDIA_OF = "query($id: ID!, $slot: String) { person(id: $id) { media(slot: $slot, orderBy: OLDEST) { nodes { id } } } }"
NOTHING = {"code": "CONFLICT", "message": "Nothing was linked: another one failed.", "path": None}


async def attach(who: Client, ids: list[str], entity_id: str, slot: str | None = None) -> Json:
    payload: Json = await who.ask(ATTACH, input={"mediaIds": ids, "entityId": entity_id, "slot": slot})
    return payload


async def attached(who: Account, ids: list[str], entity_id: str, slot: str) -> None:
    """All of them are there afterwards, and the answer says so."""
    there = {"slot": slot, "entity": {"id": entity_id}}
    assert await attach(who, ids, entity_id, slot) == {
        "results": [
            {"index": index, "id": media_id, "media": {"id": media_id, **there}, "errors": []}
            for index, media_id in enumerate(ids)
        ],
        "errors": [],
    }
    for media_id in ids:
        media = await who.ask(GET, id=media_id)
        assert {"slot": media["slot"], "entity": media["entity"]} == there


async def media_of(who: Account, person_id: str, slot: str | None = None) -> list[str]:
    return [node["id"] for node in (await who.ask(MEDIA_OF, id=person_id, slot=slot))["media"]["nodes"]]


async def pictures(who: Account, number: int, **fields: Any) -> list[str]:
    return [(await who.uploaded(photograph(30, 20), **fields))["id"] for _ in range(number)]


async def rows(server: Server) -> list[dict[str, Any]]:
    return await fetch(server, "SELECT * FROM media ORDER BY id")


def error(code: str, message: str, *path: str) -> Json:
    return {"code": code, "message": message, "path": ["input", *path] if path else None}


# ---------------------------------------------------------------- what moves


async def test_from_the_library_to_an_entity_and_on_to_another(unattended: Server, ida: Account) -> None:
    first, second = [(await ida.person())["id"] for _ in range(2)]
    ids = await pictures(ida, 3)
    before = await footprint(unattended)
    await attached(ida, ids, first, "photos")
    assert await media_of(ida, first) == ids
    assert await footprint(unattended) == replace(before, events=before.events + 3)

    await attached(ida, ids[1:], second, "documents")
    assert (await media_of(ida, first), await media_of(ida, second, "documents")) == (ids[:1], ids[1:])
    assert await events_of(unattended, ids[0]) == ["UPLOADED", "UPDATED"]
    assert await events_of(unattended, ids[1]) == ["UPLOADED", "UPDATED", "UPDATED"]
    told = await fetch(
        unattended, "SELECT entity FROM event WHERE media = $1 AND kind = 'UPDATED' ORDER BY id", uuid.UUID(ids[1])
    )
    assert [str(event["entity"]) for event in told] == [first, second]


async def test_photos_unless_another_slot_is_named(ida: Account) -> None:
    person = (await ida.person())["id"]
    (media_id,) = await pictures(ida, 1)
    (result,) = (await attach(ida, [media_id], person))["results"]
    assert result["media"] == {"id": media_id, "slot": "photos", "entity": {"id": person}}


async def test_what_is_there_stays_as_it_is(unattended: Server, ida: Account) -> None:
    person = (await ida.person())["id"]
    there, new = *await pictures(ida, 1, entityId=person), *await pictures(ida, 1)
    before = await updated(ida, there, isPrimary=True)
    events = await events_of(unattended, there)
    await attached(ida, [there, new], person, "photos")
    assert await ida.ask(GET, id=there) == before
    assert await events_of(unattended, there) == events
    assert await events_of(unattended, new) == ["UPLOADED", "UPDATED"]


async def test_what_leaves_is_no_primary(ida: Account) -> None:
    first, second = [(await ida.person())["id"] for _ in range(2)]
    (media_id,), (other,) = [await pictures(ida, 1, entityId=person) for person in (first, second)]
    for each in (media_id, other):
        await updated(ida, each, isPrimary=True)
    await attached(ida, [media_id], second, "photos")
    assert (await primaries(ida, first), await primaries(ida, second)) == (set(), {other})


async def test_one_that_is_named_twice_is_there_once(unattended: Server, ida: Account) -> None:
    person, profile_of = [(await ida.person())["id"] for _ in range(2)]
    (media_id,) = await pictures(ida, 1)
    await attached(ida, [media_id, media_id], person, "photos")
    assert await media_of(ida, person) == [media_id]
    assert await events_of(unattended, media_id) == ["UPLOADED", "UPDATED"]
    profile = (await ida.profile(profile_of))["id"]
    await attached(ida, [media_id, media_id], profile, "avatar")


async def test_a_hundred_at_once(unattended: Server, ida: Account) -> None:
    person = (await ida.person())["id"]
    ids = await insert_media(dsn_of(unattended), ida.id, [{} for _ in range(101)])
    payload = await attach(ida, ids, person)
    assert payload == {"results": [], "errors": [error("BAD_INPUT", "Up to 100 ids at once.", "mediaIds")]}
    payload = await attach(ida, ids[:100], person)
    assert [result["errors"] for result in payload["results"]] == [[]] * 100
    count = "query($id: ID!) { person(id: $id) { media(first: 0) { totalCount } } }"
    assert await ida.ask(count, id=person) == {"media": {"totalCount": 100}}


# ---------------------------------------------------------------- slots for one


async def test_an_avatar_replaces_the_old_one(unattended: Server, ida: Account) -> None:
    profile = (await ida.profile((await ida.person())["id"]))["id"]
    (old,) = await pictures(ida, 1, entityId=profile, slot="avatar")
    (new,) = await pictures(ida, 1)
    (was,) = await fetch(unattended, "SELECT storage_key FROM media WHERE id = $1", uuid.UUID(old))
    before = await footprint(unattended)
    await attached(ida, [new], profile, "avatar")
    assert (await ida.ask(PROFILE, id=profile))["avatar"] == {"id": new}
    assert await ida.ask(GET, id=old) is None
    assert await events_of(unattended, old) == ["UPLOADED", "PURGED"]
    assert await erasures(unattended, was["storage_key"]) == [
        ({"keys": [was["storage_key"]], "uploads": [], "variants": []}, False)
    ]
    changed = replace(before, media=before.media - 1, events=before.events + 2, jobs=before.jobs + 1)
    assert await footprint(unattended) == changed

    # Once more changes nothing.
    await attached(ida, [new], profile, "avatar")
    assert await footprint(unattended) == changed
    # From there to the cover: the one slot is free then, the other taken.
    await attached(ida, [new], profile, "cover")
    query = "query($id: ID!) { profile(id: $id) { avatar { id } cover { id } } }"
    assert await ida.ask(query, id=profile) == {"avatar": None, "cover": {"id": new}}


async def test_a_slot_for_one_takes_one(unattended: Server, ida: Account) -> None:
    profile = (await ida.profile((await ida.person())["id"]))["id"]
    ids = await pictures(ida, 2)
    before = await rows(unattended), await footprint(unattended)
    payload = await attach(ida, ids, profile, "avatar")
    assert payload == {"results": [], "errors": [error("BAD_INPUT", "The slot “avatar” holds one.", "mediaIds")]}
    assert (await rows(unattended), await footprint(unattended)) == before


async def test_an_avatar_leaves_for_where_the_same_bytes_are(unattended: Server, ida: Account) -> None:
    content = photograph(30, 20)
    person = (await ida.person())["id"]
    profile = (await ida.profile(person))["id"]
    first = (await ida.uploaded(content))["id"]
    avatar = (await ida.uploaded(content, entityId=profile, slot="avatar"))["id"]
    await attached(ida, [first, avatar], person, "photos")
    assert await media_of(ida, person) == [first, avatar]
    found = await fetch(unattended, "SELECT id, is_copy FROM media WHERE owner = $1 ORDER BY id", uuid.UUID(ida.id))
    assert [(str(row["id"]), row["is_copy"]) for row in found] == [(first, False), (avatar, True)]


async def test_of_many_that_become_the_avatar_at_once_one_is(unattended: Server, ida: Account) -> None:
    profiles = [(await ida.profile((await ida.person())["id"]))["id"] for _ in range(2)]
    ids = await pictures(ida, 6)
    answers = await asyncio.gather(
        *(attach(ida, [media_id], profile, "avatar") for media_id in ids for profile in profiles)
    )
    # One that was just there may have been replaced, and so be gone.
    codes = {error["code"] for answer in answers for result in answer["results"] for error in result["errors"]}
    assert codes <= {"NOT_FOUND"}
    assert [answer["errors"] for answer in answers] == [[]] * len(answers)
    shown = [(await ida.ask(PROFILE, id=profile))["avatar"] for profile in profiles]
    there = await fetch(
        unattended, "SELECT id, entity FROM media WHERE owner = $1 AND slot = 'avatar'", uuid.UUID(ida.id)
    )
    assert {str(row["entity"]): {"id": str(row["id"])} for row in there} == {
        profile: avatar for profile, avatar in zip(profiles, shown, strict=True) if avatar is not None
    }
    assert len(there) == len({row["entity"] for row in there}) >= 1


async def test_two_that_change_places_at_once(ida: Account) -> None:
    """From one entity to the other, and back: neither waits for the other for ever."""
    first, second = [(await ida.person())["id"] for _ in range(2)]
    here, there = await pictures(ida, 5, entityId=first), await pictures(ida, 5, entityId=second)
    answers = await asyncio.gather(
        *(attach(ida, [media_id], second) for media_id in here),
        *(attach(ida, [media_id], first) for media_id in reversed(there)),
        attach(ida, [*here, *there], first, "documents"),
        attach(ida, [*reversed(here), *reversed(there)], second, "documents"),
    )
    assert [answer["errors"] for answer in answers] == [[]] * len(answers)
    assert {tuple(result["errors"]) for answer in answers for result in answer["results"]} == {()}
    assert sorted(await media_of(ida, first) + await media_of(ida, second)) == sorted([*here, *there])


# ---------------------------------------------------------------- what doesn't


async def test_if_one_fails_none_moves(unattended: Server, ida: Account, bob: Account) -> None:
    person = (await ida.person())["id"]
    good, trashed, lost = await pictures(ida, 3)
    his, hidden = *await pictures(bob, 1, isPublic=True), *await pictures(bob, 1)
    film = (await ida.uploaded(tiny_mp4(), "film.mp4"))["id"]
    pending = (await ida.begun(SMALL))["media"]["id"]
    unknown = str(uuid.uuid4())
    await ida.ask(DELETE, ids=[trashed])
    await execute(
        dsn_of(unattended),
        "UPDATE media SET lost_at = now(), status = 'FAILED', failure_code = 'STORAGE' WHERE id = $1",
        uuid.UUID(lost),
    )
    before = await rows(unattended), await footprint(unattended)
    faults = [
        (his, "FORBIDDEN", "You may not change this media."),
        (hidden, "NOT_FOUND", "There is no such media."),
        (unknown, "NOT_FOUND", "There is no such media."),
        ("17", "NOT_FOUND", "There is no such media."),
        (trashed, "BAD_INPUT", "This is in the trash: restore it first."),
        (pending, "BAD_INPUT", "There are no bytes of this."),
        (lost, "BAD_INPUT", "There are no bytes of this."),
        (film, "UNSUPPORTED_TYPE", "The slot “documents” takes document or image, and this is video."),
    ]
    given = [good, *(media_id for media_id, _, _ in faults), good]
    expected = [
        [NOTHING],
        *([error(code, text, "mediaIds", str(index))] for index, (_, code, text) in enumerate(faults, 1)),
        [NOTHING],
    ]
    assert await attach(ida, given, person, "documents") == {
        "results": [
            {"index": index, "id": media_id, "media": None, "errors": expected[index]}
            for index, media_id in enumerate(given)
        ],
        "errors": [],
    }
    for media_id, code, text in faults:  # and each by itself
        alone = {"index": 1, "id": media_id, "media": None, "errors": [error(code, text, "mediaIds", "1")]}
        payload = await attach(ida, [good, media_id], person, "documents")
        assert payload["results"] == [{"index": 0, "id": good, "media": None, "errors": [NOTHING]}, alone]
    assert (await rows(unattended), await footprint(unattended)) == before
    await execute(dsn_of(unattended), "UPDATE media SET is_public = false WHERE id = $1", uuid.UUID(his))


@pytest.mark.parametrize(("slot", "most"), [("avatar", 20), ("cover", 50)])
async def test_what_is_too_large_for_the_slot(unattended: Server, ida: Account, slot: str, most: int) -> None:
    profile = (await ida.profile((await ida.person())["id"]))["id"]
    (shown,) = await pictures(ida, 1, entityId=profile, slot=slot)
    sizes = [{"size_bytes": most * MIB + 1}, {"size_bytes": most * MIB}]
    large, fitting = await insert_media(dsn_of(unattended), ida.id, sizes)
    before = await rows(unattended), await footprint(unattended)
    text = f"The slot “{slot}” takes files up to {most} MiB."
    refused = [{"index": 0, "id": large, "media": None, "errors": [error("FILE_TOO_LARGE", text, "mediaIds", "0")]}]
    assert await attach(ida, [large], profile, slot) == {"results": refused, "errors": []}
    assert (await rows(unattended), await footprint(unattended)) == before
    await attached(ida, [fitting], profile, slot)
    assert await ida.ask(GET, id=shown) is None


async def test_a_document_is_no_avatar(unattended: Server, ida: Account) -> None:
    profile = (await ida.profile((await ida.person())["id"]))["id"]
    (shown,) = await pictures(ida, 1, entityId=profile, slot="avatar")
    document = (await ida.uploaded(tiny_pdf(), "letter.pdf"))["id"]
    before = await rows(unattended), await footprint(unattended)
    text = "The slot “avatar” takes image, and this is document."
    (result,) = (await attach(ida, [document], profile, "avatar"))["results"]
    assert result["errors"] == [error("UNSUPPORTED_TYPE", text, "mediaIds", "0")]
    assert (await rows(unattended), await footprint(unattended)) == before
    assert (await ida.ask(PROFILE, id=profile))["avatar"] == {"id": shown}


async def test_what_is_no_place(unattended: Server, ida: Account, bob: Account) -> None:
    (media_id,) = await pictures(ida, 1)
    person, his = (await ida.person())["id"], (await bob.person())["id"]
    before = await rows(unattended), await footprint(unattended)
    there_are = "A person has no slot “avatar”; there are photos, documents, recordings."
    no_entity = error("NOT_FOUND", "There is no such entity.", "entityId")
    for ids, entity_id, slot, expected in (
        ([media_id], his, None, no_entity),
        ([media_id], str(uuid.uuid4()), None, no_entity),
        ([media_id], "17", None, no_entity),
        ([media_id], media_id, None, no_entity),
        ([media_id], person, "avatar", error("BAD_INPUT", there_are, "slot")),
        ([], person, None, error("BAD_INPUT", "Say which media.", "mediaIds")),
    ):
        assert await attach(ida, ids, entity_id, slot) == {"results": [], "errors": [expected]}
    async with Client(unattended.url) as nobody:
        refused = error("UNAUTHENTICATED", "Sign in first.")
        assert await attach(nobody, [media_id], person) == {"results": [], "errors": [refused]}
    assert (await rows(unattended), await footprint(unattended)) == before
