"""Profiles: one a person, with an avatar and a cover that replace what was there."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.client import Account, Json
from tests.footprint import fetch, footprint
from tests.pictures import photograph, tiny_pdf
from tests.server import Server, wait_for

PICTURE = "id slot filename sizeBytes entity { id }"
FIELDS = f"""id publicId name bio owner {{ id }} person {{ id }} createdAt updatedAt
    avatar {{ {PICTURE} }} cover {{ {PICTURE} }}"""
CREATE = f"""mutation($input: CreateProfileInput!) {{
    createProfile(input: $input) {{ profile {{ {FIELDS} }} errors {{ code message path }} }} }}"""
UPDATE = f"""mutation($input: UpdateProfileInput!) {{
    updateProfile(input: $input) {{ profile {{ {FIELDS} }} errors {{ code message path }} }} }}"""
DELETE = "mutation($id: ID!) { deleteProfile(id: $id) { deletedId errors { code message path } } }"
PROFILE = f"query($id: ID!) {{ profile(id: $id) {{ {FIELDS} }} }}"
HAS_ONE = {"code": "CONFLICT", "message": "This person has a profile already.", "path": ["input", "personId"]}


async def sent(who: Account, query: str, given: Mapping[str, Any], **pictures: bytes) -> Json:
    """The payload of a mutation with pictures by the names of their slots."""
    variables = {"input": {**given, **dict.fromkeys(pictures)}}
    files: dict[str, tuple[str, bytes | Path]] = {
        f"input.{slot}": (f"{slot}.jpg", content) for slot, content in pictures.items()
    }
    payload: Json = await (who.send_files(query, variables, files) if files else who.ask(query, **variables))
    return payload


async def profile_of(who: Account, **pictures: bytes) -> Json:
    payload = await sent(who, CREATE, {"personId": (await who.person())["id"]}, **pictures)
    assert payload["errors"] == []
    profile: Json = payload["profile"]
    return profile


async def changed(who: Account, profile: Json, changes: Mapping[str, Any] | None = None, **pictures: bytes) -> Json:
    payload = await sent(who, UPDATE, {"id": profile["id"], **(changes or {})}, **pictures)
    assert payload["errors"] == []
    now: Json = payload["profile"]
    assert now == await who.ask(PROFILE, id=profile["id"])
    return now


def picture(profile: Json, slot: str, content: bytes) -> Json:
    """What is told of an avatar that has just been given."""
    return {
        "id": profile[slot]["id"],
        "slot": slot,
        "filename": f"{slot}.jpg",
        "sizeBytes": len(content),
        "entity": {"id": profile["id"]},
    }


async def test_a_profile_presents_a_person(ada: Account) -> None:
    person = await ada.person("Grace Hopper")
    payload = await sent(ada, CREATE, {"personId": person["id"], "bio": "Rear admiral"})
    profile = payload["profile"]
    assert payload == {
        "profile": {
            "id": profile["id"],
            "publicId": profile["publicId"],
            "name": "Grace Hopper",
            "bio": "Rear admiral",
            "owner": {"id": ada.id},
            "person": {"id": person["id"]},
            "avatar": None,
            "cover": None,
            "createdAt": profile["createdAt"],
            "updatedAt": profile["createdAt"],
        },
        "errors": [],
    }
    assert profile["publicId"].startswith("PRF-")
    assert await ada.ask(PROFILE, id=profile["id"]) == profile
    assert await ada.ask("query($id: ID!) { person(id: $id) { profile { id } } }", id=person["id"]) == {
        "profile": {"id": profile["id"]}
    }


async def test_what_is_left_out_stays_and_null_clears(ada: Account) -> None:
    profile = await profile_of(ada)
    now = await changed(ada, profile, {"name": "Amazing Grace", "bio": "Rear admiral"})
    assert now == {**profile, "name": "Amazing Grace", "bio": "Rear admiral", "updatedAt": now["updatedAt"]}
    later = await changed(ada, profile, {})
    assert later == {**now, "updatedAt": later["updatedAt"]}
    last = await changed(ada, profile, {"bio": None})
    assert last == {**now, "bio": None, "updatedAt": last["updatedAt"]}
    assert profile["updatedAt"] < now["updatedAt"] < later["updatedAt"] < last["updatedAt"]


async def test_pictures_come_with_the_profile(ada: Account) -> None:
    avatar, cover = photograph(60, 60), photograph(90, 30)
    profile = await profile_of(ada, avatar=avatar, cover=cover)
    assert profile["avatar"] == picture(profile, "avatar", avatar)
    assert profile["cover"] == picture(profile, "cover", cover)
    ready = await ada.settled(profile["avatar"]["id"])
    assert (ready["status"], ready["width"], ready["height"], len(ready["variants"])) == ("READY", 60, 60, 4)
    assert (await ada.settled(profile["cover"]["id"]))["status"] == "READY"


def stored_for(server: Server, key: str) -> list[str]:
    """Original and variants, and anything else beside them with the same stem."""
    return sorted(found.name for found in (server.data_dir / "files").rglob(f"{Path(key).stem}*"))


async def key_of(server: Server, media: str) -> str:
    (row,) = await fetch(server, "SELECT storage_key FROM media WHERE id = $1", uuid.UUID(media))
    return str(row["storage_key"])


@pytest.mark.parametrize("by", ["updateProfile", "uploadMedia"])
async def test_a_new_avatar_replaces_the_old_one_bytes_and_all(server: Server, ada: Account, by: str) -> None:
    profile = await profile_of(ada, avatar=photograph(200, 200), cover=photograph(90, 30))
    old = await ada.settled(profile["avatar"]["id"])
    key = await key_of(server, old["id"])
    urls = [old["url"], *(variant["url"] for variant in old["variants"])]
    assert len(stored_for(server, key)) == 5
    new = photograph(100, 100)
    if by == "updateProfile":
        now = await changed(ada, profile, avatar=new)
    else:
        await ada.uploaded(new, "avatar.jpg", entityId=profile["id"], slot="avatar")
        now = await ada.ask(PROFILE, id=profile["id"])

    assert now["avatar"] == picture(now, "avatar", new)
    assert now["avatar"]["id"] != old["id"]
    assert now["cover"]["id"] == profile["cover"]["id"]
    assert await ada.ask("query($id: ID!) { media(id: $id) { id } }", id=old["id"]) is None
    assert await ada.ask("{ library(filter: {inTrash: true}) { nodes { id } } }") == {"nodes": []}
    wait_for(lambda: stored_for(server, key) == [], 30)
    assert [(await ada.http.get(url)).status_code for url in urls] == [404] * 5
    # And the new one is whole.
    assert (await ada.settled(now["avatar"]["id"]))["status"] == "READY"
    assert len(stored_for(server, await key_of(server, now["avatar"]["id"]))) == 5


async def test_null_removes_a_picture(server: Server, ada: Account) -> None:
    profile = await profile_of(ada, avatar=photograph(60, 60), cover=photograph(90, 30))
    key = await key_of(server, profile["avatar"]["id"])
    now = await changed(ada, profile, {"avatar": None})
    assert (now["avatar"], now["cover"]["id"]) == (None, profile["cover"]["id"])
    assert await ada.ask("query($id: ID!) { node(id: $id) { id } }", id=profile["avatar"]["id"]) is None
    wait_for(lambda: stored_for(server, key) == [], 30)
    assert (await changed(ada, profile, {"avatar": None}))["avatar"] is None


async def test_a_picture_of_the_library_may_become_an_avatar_and_the_reverse(ada: Account) -> None:
    first, second = photograph(60, 60), photograph(60, 60)
    in_library = await ada.uploaded(first)
    profile = await profile_of(ada, avatar=first, cover=second)
    after = await ada.upload(second)
    assert (after["duplicateOf"], after["errors"]) == (None, [])
    ids = {in_library["id"], profile["avatar"]["id"], profile["cover"]["id"], after["media"]["id"]}
    assert len(ids) == 4
    # The avatar goes, and the picture of the library stays as it is.
    await changed(ada, profile, {"avatar": None})
    ready = await ada.settled(in_library["id"])
    assert (ready["status"], (await ada.http.get(ready["url"])).content) == ("READY", first)


async def test_whose_profile_it_is_controls_all_media_of_it(ada: Account) -> None:
    profile = await profile_of(ada, avatar=photograph(60, 60))
    photo = await ada.uploaded(photograph(30, 20), entityId=profile["id"])
    query = """query($id: ID!) { profile(id: $id) { media { nodes { id slot } totalCount }
        avatars: media(slot: "avatar") { nodes { id } } none: media(slot: "\\u0000") { nodes { id } } } }"""
    assert await ada.ask(query, id=profile["id"]) == {
        "media": {
            "nodes": [{"id": photo["id"], "slot": "photos"}, {"id": profile["avatar"]["id"], "slot": "avatar"}],
            "totalCount": 2,
        },
        "avatars": {"nodes": [{"id": profile["avatar"]["id"]}]},
        "none": {"nodes": []},
    }
    title = 'mutation($id: ID!) { updateMedia(input: {id: $id, title: "Me"}) { media { title } errors { code } } }'
    assert await ada.ask(title, id=profile["avatar"]["id"]) == {"media": {"title": "Me"}, "errors": []}
    trash = "mutation($ids: [ID!]!) { deleteMedia(input: {ids: $ids}) { results { errors { code } } } }"
    assert await ada.ask(trash, ids=[profile["avatar"]["id"]]) == {"results": [{"errors": []}]}
    assert (await ada.ask(PROFILE, id=profile["id"]))["avatar"] is None


async def test_a_profile_goes_and_its_media_into_the_trash(ada: Account) -> None:
    profile = await profile_of(ada, avatar=photograph(60, 60))
    assert await ada.ask(DELETE, id=profile["id"]) == {"deletedId": profile["id"], "errors": []}
    assert await ada.ask(PROFILE, id=profile["id"]) is None
    trash = await ada.ask("{ library(filter: {inTrash: true}) { nodes { id entity { id } } } }")
    assert trash == {"nodes": [{"id": profile["avatar"]["id"], "entity": None}]}
    person = "query($id: ID!) { person(id: $id) { id profile { id } } }"
    assert await ada.ask(person, id=profile["person"]["id"]) == {"id": profile["person"]["id"], "profile": None}
    # The person can be given another.
    assert (await sent(ada, CREATE, {"personId": profile["person"]["id"]}))["errors"] == []


# ---------------------------------------------------------------- nothing left behind


@pytest.fixture
async def hers(ida: Account) -> Json:
    return await profile_of(ida, avatar=photograph(60, 60))


async def test_a_person_has_one_profile(unattended: Server, ida: Account, hers: Json) -> None:
    before = await footprint(unattended)
    given = {"personId": hers["person"]["id"], "name": "Another"}
    refused = {"profile": None, "errors": [HAS_ONE]}
    assert await sent(ida, CREATE, given) == refused
    assert await sent(ida, CREATE, given, avatar=photograph(60, 60), cover=photograph(60, 60)) == refused
    assert await footprint(unattended) == before
    assert await ida.ask(PROFILE, id=hers["id"]) == hers


async def test_of_two_profiles_made_at_once_there_is_one(unattended: Server, ida: Account) -> None:
    person = await ida.person()
    before = await footprint(unattended)
    given = {"personId": person["id"]}
    answers = await asyncio.gather(*(sent(ida, CREATE, given, avatar=photograph(60, 60)) for _ in range(4)))
    assert sorted(len(answer["errors"]) for answer in answers) == [0, 1, 1, 1]
    assert [error for answer in answers for error in answer["errors"]] == [HAS_ONE] * 3
    after = await footprint(unattended)
    assert (after.media, after.jobs, after.scratch) == (before.media + 1, before.jobs + 1, before.scratch)
    assert len(after.objects - before.objects) == 1


@pytest.mark.parametrize(
    ("wrong", "code", "message"),
    [
        (tiny_pdf(), "UNSUPPORTED_TYPE", "The slot “{slot}” takes image, and this is document."),
        (b"text", "UNSUPPORTED_TYPE", "These bytes are no picture, film, recording or document that is known here."),
        (b"", "BAD_INPUT", "The file is empty."),
    ],
)
async def test_a_wrong_picture_makes_no_profile(
    unattended: Server, ida: Account, wrong: bytes, code: str, message: str
) -> None:
    person, hers = await ida.person(), await profile_of(ida, avatar=photograph(60, 60))
    before = await footprint(unattended)
    for slot, other in (("avatar", "cover"), ("cover", "avatar")):
        error = {"code": code, "message": message.format(slot=slot), "path": ["input", slot]}
        pictures = {other: photograph(60, 60), slot: wrong}
        refused = {"profile": None, "errors": [error]}
        assert await sent(ida, CREATE, {"personId": person["id"]}, **pictures) == refused
        assert await sent(ida, UPDATE, {"id": hers["id"], "name": "Changed"}, **pictures) == refused
    assert await footprint(unattended) == before
    assert await ida.ask("query($id: ID!) { person(id: $id) { profile { id } } }", id=person["id"]) == {"profile": None}
    assert await ida.ask(PROFILE, id=hers["id"]) == hers


@pytest.mark.parametrize(
    ("given", "path"), [({"name": None}, "name"), ({"name": " "}, "name"), ({"bio": "\x00"}, "bio")]
)
async def test_wrong_words_leave_the_pictures(
    unattended: Server, ida: Account, hers: Json, given: Json, path: str
) -> None:
    before = await footprint(unattended)
    payload = await sent(ida, UPDATE, {"id": hers["id"], **given}, avatar=photograph(60, 60), cover=photograph(60, 60))
    assert payload["profile"] is None
    assert [(error["code"], error["path"]) for error in payload["errors"]] == [("BAD_INPUT", ["input", path])]
    assert await footprint(unattended) == before
    assert await ida.ask(PROFILE, id=hers["id"]) == hers


async def test_an_avatar_is_processed_before_all_else(unattended: Server, ida: Account) -> None:
    photo = await ida.uploaded(photograph(30, 20))
    profile = await profile_of(ida, avatar=photograph(60, 60))
    jobs = await fetch(
        unattended, "SELECT convert_from(payload, 'UTF8')::jsonb->>'media' AS media, priority FROM pgqueuer"
    )
    priorities = {job["media"]: job["priority"] for job in jobs}
    assert (priorities[profile["avatar"]["id"]], priorities[photo["id"]]) == (100, 10)
