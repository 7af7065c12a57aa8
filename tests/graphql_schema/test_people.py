"""Persons: made, changed, and gone."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

from tests.client import Account, Json
from tests.footprint import fetch
from tests.pictures import photograph
from tests.server import Server

FIELDS = "id publicId name givenName familyName birthDate deathDate biography createdAt updatedAt owner { id }"
CREATE = f"""mutation($input: CreatePersonInput!) {{
    createPerson(input: $input) {{ person {{ {FIELDS} profile {{ id }} }} errors {{ code message path }} }} }}"""
UPDATE = f"""mutation($input: UpdatePersonInput!) {{
    updatePerson(input: $input) {{ person {{ {FIELDS} }} errors {{ code message path }} }} }}"""
DELETE = "mutation($id: ID!) { deletePerson(id: $id) { deletedId errors { code message path } } }"
PERSON = f"query($id: ID!) {{ person(id: $id) {{ {FIELDS} }} }}"
GRACE = {
    "name": "Grace Hopper",
    "givenName": "Grace",
    "familyName": "Hopper",
    "birthDate": "1906-12-09",
    "deathDate": "1992~",
    "biography": "Compilers.\nAnd the Navy.",
}


async def created(ada: Account, **given: Any) -> Json:
    payload = await ada.ask(CREATE, input=given)
    assert payload["errors"] == []
    person: Json = payload["person"]
    return person


async def test_a_person_is_as_described(ada: Account) -> None:
    person = await created(ada, **GRACE)
    assert person == {
        "id": person["id"],
        "publicId": person["publicId"],
        **GRACE,
        "createdAt": person["createdAt"],
        "updatedAt": person["createdAt"],
        "owner": {"id": ada.id},
        "profile": None,
    }
    assert uuid.UUID(person["id"]).version == 7
    assert person["publicId"].startswith("PER-")
    assert len(person["publicId"]) == 16
    assert await ada.ask(PERSON, id=person["id"]) == {name: person[name] for name in person if name != "profile"}


async def test_a_name_is_enough(ada: Account) -> None:
    person = await created(ada, name="  Grace\n Hopper ", givenName=" ", biography="\n")
    assert {name: person[name] for name in GRACE} == {**dict.fromkeys(GRACE), "name": "Grace Hopper"}


async def test_what_is_left_out_stays_and_null_clears(ada: Account) -> None:
    person = await created(ada, **GRACE)
    del person["profile"]

    async def updated(**changes: str | None) -> Json:
        payload = await ada.ask(UPDATE, input={"id": person["id"], **changes})
        assert payload["errors"] == []
        now: Json = payload["person"]
        assert now["updatedAt"] > person["updatedAt"]
        assert now == await ada.ask(PERSON, id=person["id"])
        return {**now, "updatedAt": person["updatedAt"]}

    assert await updated() == person
    assert await updated(name="Amazing Grace") == {**person, "name": "Amazing Grace"}
    assert await updated(biography=None) == {**person, "name": "Amazing Grace", "biography": None}
    cleared = dict.fromkeys(("givenName", "familyName", "birthDate", "deathDate"))
    assert await updated(**cleared) == {**person, "name": "Amazing Grace", "biography": None, **cleared}
    assert await updated(**GRACE) == person


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", None, "A name can be changed, and not removed."),
        ("name", " ", "This takes 1 to 300 characters."),
        ("name", "a" * 301, "This takes 1 to 300 characters."),
        ("name", "Grace\x00", "Control characters have no place here."),
        ("givenName", "a" * 201, "This takes 1 to 200 characters."),
        ("familyName", "\x07", "Control characters have no place here."),
        ("biography", "a" * 20_001, "This takes up to 20000 characters."),
        ("biography", "nul \x00", "Control characters have no place here."),
    ],
)
async def test_what_does_not_fit_changes_nothing(ada: Account, field: str, value: str | None, message: str) -> None:
    person = await created(ada, **GRACE)
    del person["profile"]
    error = {"code": "BAD_INPUT", "message": message, "path": ["input", field]}
    given = {"id": person["id"], "biography": "Changed.", field: value}
    assert await ada.ask(UPDATE, input=given) == {"person": None, "errors": [error]}
    assert await ada.ask(PERSON, id=person["id"]) == person
    if value is not None:
        assert await ada.ask(CREATE, input={"name": "Grace", field: value}) == {"person": None, "errors": [error]}
        assert len((await ada.ask("{ viewer { people { nodes { id } } } }"))["people"]["nodes"]) == 1


async def test_a_person_has_a_name(ada: Account) -> None:
    for given in ({}, {"name": None}):
        answer = await ada.post(CREATE, input=given)
        assert [error["extensions"]["code"] for error in answer["errors"]] == ["GRAPHQL_VALIDATION_FAILED"]
    assert await ada.ask("{ viewer { people { nodes { id } } } }") == {"people": {"nodes": []}}


async def test_dates_are_as_exact_as_is_known(ada: Account) -> None:
    person = await created(ada, name="Grace")
    for date in ("1943", "1943-05", "1943-05-12", "1943~", "1943?", "1943-05-12%", "1940/1945", "1940-02-29~/1945?"):
        payload = await ada.ask(UPDATE, input={"id": person["id"], "birthDate": date})
        assert (payload["person"]["birthDate"], payload["errors"]) == (date, [])
    for date in (
        "",
        "43",
        "1943-13",
        "1943-02-29",
        "1943-5-1",
        "1945/1940",
        "1940/",
        "12 May 1943",
        "1943\x00",
        "1943-05-12T00:00",
    ):
        answer = await ada.post(UPDATE, input={"id": person["id"], "birthDate": date})
        (error,) = answer["errors"]
        assert (error["extensions"], "A FuzzyDate is" in error["message"]) == (
            {"code": "GRAPHQL_VALIDATION_FAILED"},
            True,
        )
    assert (await ada.ask(PERSON, id=person["id"]))["birthDate"] == "1940-02-29~/1945?"


async def test_a_person_goes_with_the_profile_and_its_media_into_the_trash(server: Server, ada: Account) -> None:
    person, other = await created(ada, name="Grace"), await created(ada, name="Another")
    profile = await ada.profile(person["id"])
    places: list[Json] = [
        {"entityId": person["id"], "slot": "photos"},
        {"entityId": profile["id"], "slot": "photos"},
        {"entityId": profile["id"], "slot": "avatar"},
    ]
    gone = [await ada.uploaded(photograph(30, 20), **place) for place in places]
    kept = [await ada.uploaded(photograph(30, 20)), await ada.uploaded(photograph(30, 20), entityId=other["id"])]
    assert await ada.ask(DELETE, id=person["id"]) == {"deletedId": person["id"], "errors": []}

    nowhere = "query($person: ID!, $profile: ID!) { person(id: $person) { id } profile(id: $profile) { id } }"
    assert await ada.ask(nowhere, person=person["id"], profile=profile["id"]) == {"person": None, "profile": None}
    trash = await ada.ask("{ library(filter: {inTrash: true}) { nodes { id entity { id } slot deletedAt } } }")
    at = {media["deletedAt"] for media in trash["nodes"]}
    assert len(at - {None}) == 1
    assert trash["nodes"] == [
        {"id": media["id"], "entity": None, "slot": media["slot"], "deletedAt": at.copy().pop()}
        for media in reversed(gone)
    ]
    usage = await ada.ask("{ viewer { storage { mediaCount } } }")
    assert usage == {"storage": {"mediaCount": len(kept)}}
    rows = await fetch(server, "SELECT entity FROM profile WHERE person = $1", uuid.UUID(person["id"]))
    assert rows == []
    events = await fetch(
        server, "SELECT media::text FROM event WHERE owner = $1 AND kind = 'TRASHED'", uuid.UUID(ada.id)
    )
    assert sorted(str(event["media"]) for event in events) == sorted(media["id"] for media in gone)
    # The original stays until the trash is emptied.
    for media in gone:
        assert (await ada.http.get(media["url"])).status_code == 200

    missing = {"code": "NOT_FOUND", "message": "There is no such person.", "path": None}
    assert await ada.ask(DELETE, id=person["id"]) == {"deletedId": None, "errors": [missing]}


async def test_what_is_uploaded_while_a_person_goes_is_refused_or_goes_too(ada: Account) -> None:
    # Before the entity was locked first, an upload that came in between was left behind as nobody's, or the two
    # waited for each other until PostgreSQL ended one of them.
    for _ in range(4):
        person = await created(ada, name="Grace")
        profile = await ada.profile(person["id"])
        await ada.uploaded(photograph(20, 20), entityId=profile["id"], slot="avatar")

        async def deleted(person_id: str = person["id"]) -> Json:
            await asyncio.sleep(0)
            payload: Json = await ada.ask(DELETE, id=person_id)
            return payload

        *uploads, gone = await asyncio.gather(
            *(ada.upload(photograph(20, 20), entityId=profile["id"], slot="avatar") for _ in range(2)),
            ada.upload(photograph(20, 20), entityId=person["id"]),
            deleted(),
        )
        assert gone == {"deletedId": person["id"], "errors": []}
        for payload in uploads:
            assert [error["code"] for error in payload["errors"]] in ([], ["NOT_FOUND"])
    assert await ada.ask("{ viewer { storage { mediaCount } } }") == {"storage": {"mediaCount": 0}}


async def test_a_profile_made_while_its_person_goes_is_refused_or_goes_too(server: Server, ada: Account) -> None:
    make = "mutation($id: ID!) { createProfile(input: {personId: $id}) { profile { id } errors { code } } }"
    for _ in range(5):
        person = await created(ada, name="Grace")
        made, gone = await asyncio.gather(ada.ask(make, id=person["id"]), ada.ask(DELETE, id=person["id"]))
        assert gone == {"deletedId": person["id"], "errors": []}
        assert [error["code"] for error in made["errors"]] in ([], ["NOT_FOUND"])
    assert await fetch(server, "SELECT id FROM entity WHERE owner = $1", uuid.UUID(ada.id)) == []
