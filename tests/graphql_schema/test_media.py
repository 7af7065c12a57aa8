"""Media: described, listed in every order and by every filter, put into the trash, processed again."""

from __future__ import annotations

import asyncio
import secrets
import uuid
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.client import MEDIA, Account, Json
from tests.footprint import fetch, footprint
from tests.graphql_schema.rows import EPOCH, dsn_of, execute, insert_media
from tests.pictures import photograph
from tests.server import Server

GET = f"query($id: ID!) {{ media(id: $id) {{ {MEDIA} }} }}"
UPDATE = f"""mutation($input: UpdateMediaInput!) {{
    updateMedia(input: $input) {{ media {{ {MEDIA} }} duplicateOf {{ id }} errors {{ code message path }} }} }}"""
LIST = """query($filter: MediaFilter, $order: MediaOrder, $first: Int, $after: String) {
    library(filter: $filter, orderBy: $order, first: $first, after: $after) {
        nodes { id } totalCount pageInfo { hasNextPage endCursor } } }"""
NOT_FOUND = {"code": "NOT_FOUND", "message": "There is no such media.", "path": None}


def on_each(name: str) -> str:
    return f"""mutation($ids: [ID!]!) {{ {name}(input: {{ids: $ids}}) {{
        results {{ index id media {{ id status deletedAt failure {{ code message }} }} errors {{ code message path }} }}
        errors {{ code message path }} }} }}"""


DELETE, REPROCESS = on_each("deleteMedia"), on_each("reprocessMedia")


async def updated(who: Account, media: str, **changes: Any) -> Json:
    payload = await who.ask(UPDATE, input={"id": media, **changes})
    assert payload == {"media": payload["media"], "duplicateOf": None, "errors": []}
    now: Json = payload["media"]
    assert now == await who.ask(GET, id=media)
    return now


async def picture(who: Account, **fields: Any) -> Json:
    """One that no worker touches."""
    media: Json = await who.uploaded(photograph(30, 20), **fields)
    return media


# ---------------------------------------------------------------- updateMedia


async def test_every_field_is_set_and_cleared(unattended: Server, ida: Account) -> None:
    person = await ida.person()
    media = await picture(ida, entityId=person["id"])
    given = {
        "title": "At sea",
        "description": "The deck.\nMorning.",
        "altText": "A woman on a ship",
        "tags": ["sea", "ship"],
        "sortOrder": 7,
        "isPrimary": True,
        "isPublic": True,
    }
    nothing: Json = {"title": None, "description": None, "altText": None, "tags": []}
    blank = {**nothing, "sortOrder": 0, "isPrimary": False, "isPublic": False}
    assert {name: media[name] for name in given} == blank
    now = await updated(ida, media["id"], **given)
    assert now == {**media, **given, "updatedAt": now["updatedAt"]}
    assert now["updatedAt"] > media["updatedAt"]

    for name, value in blank.items():
        cleared = await updated(ida, media["id"], **{name: None})
        assert cleared == {**now, name: value, "updatedAt": cleared["updatedAt"]}
        now = cleared
    same = await updated(ida, media["id"])
    assert same == {**now, "updatedAt": same["updatedAt"]}
    events = await fetch(unattended, "SELECT kind FROM event WHERE media = $1 ORDER BY id", uuid.UUID(media["id"]))
    assert [event["kind"] for event in events] == ["UPLOADED"] + ["UPDATED"] * (1 + len(blank) + 1)


@pytest.mark.parametrize(
    ("given", "path", "message"),
    [
        ({"title": "a" * 301}, "title", "This takes 1 to 300 characters."),
        ({"title": "\x00"}, "title", "Control characters have no place here."),
        ({"description": "a" * 20_001}, "description", "This takes up to 20000 characters."),
        ({"description": "\x1b"}, "description", "Control characters have no place here."),
        ({"altText": "\x00"}, "altText", "Control characters have no place here."),
        ({"tags": ["sea", ""]}, "tags", "This takes 1 to 100 characters."),
        ({"tags": ["a" * 101]}, "tags", "This takes 1 to 100 characters."),
        ({"tags": ["nul\x00"]}, "tags", "Control characters have no place here."),
        ({"tags": [str(number) for number in range(51)]}, "tags", "Up to 50 tags."),
        ({"isPrimary": True}, "isPrimary", "Only media that belongs to something can be the primary of it."),
    ],
)
async def test_what_does_not_fit_changes_nothing(
    unattended: Server, ida: Account, given: Json, path: str, message: str
) -> None:
    media = await picture(ida, tags=["kept"])
    before = await footprint(unattended)
    error = {"code": "BAD_INPUT", "message": message, "path": ["input", path]}
    payload = await ida.ask(UPDATE, input={"id": media["id"], "sortOrder": 9, **given})
    assert payload == {"media": None, "duplicateOf": None, "errors": [error]}
    assert await ida.ask(GET, id=media["id"]) == media
    assert await footprint(unattended) == before


async def test_tags_are_kept_in_order_each_once(ida: Account) -> None:
    media = await picture(ida)
    now = await updated(ida, media["id"], tags=["  Sea ", "ship", "SEA", "cafe\u0301", "café", "a  b"])
    assert now["tags"] == ["Sea", "ship", "café", "a b"]
    fifty = [str(number) for number in range(50)]
    assert (await updated(ida, media["id"], tags=fifty))["tags"] == fifty


async def primaries(who: Account, person: str) -> set[str]:
    query = "query($id: ID!) { person(id: $id) { media(first: 100) { nodes { id isPrimary } } } }"
    nodes = (await who.ask(query, id=person))["media"]["nodes"]
    return {media["id"] for media in nodes if media["isPrimary"]}


async def test_a_slot_has_one_primary(ida: Account) -> None:
    person, other = await ida.person(), await ida.person()
    first, second = [(await picture(ida, entityId=person["id"]))["id"] for _ in range(2)]
    document = (await picture(ida, entityId=person["id"], slot="documents"))["id"]
    elsewhere = (await picture(ida, entityId=other["id"]))["id"]
    for media in (first, document, elsewhere):
        assert (await updated(ida, media, isPrimary=True))["isPrimary"]
    assert await primaries(ida, person["id"]) == {first, document}
    await updated(ida, second, isPrimary=True)
    assert await primaries(ida, person["id"]) == {second, document}
    await updated(ida, second, isPrimary=True)
    await updated(ida, document, isPrimary=False)
    assert await primaries(ida, person["id"]) == {second}
    assert await primaries(ida, other["id"]) == {elsewhere}


async def test_of_many_made_primary_at_once_one_is(ida: Account) -> None:
    person = await ida.person()
    media = [(await picture(ida, entityId=person["id"]))["id"] for _ in range(6)]
    change = "mutation($id: ID!) { updateMedia(input: {id: $id, isPrimary: true}) { errors { code } } }"
    answers = await asyncio.gather(*(ida.post(change, id=one) for one in media))
    assert answers == [{"data": {"updateMedia": {"errors": []}}}] * len(media)
    assert len(await primaries(ida, person["id"])) == 1


async def test_what_is_in_the_trash_is_nobodys_primary(ida: Account) -> None:
    person = await ida.person()
    first, second = [(await picture(ida, entityId=person["id"]))["id"] for _ in range(2)]
    await updated(ida, first, isPrimary=True)
    await ida.ask(DELETE, ids=[first])
    assert await primaries(ida, person["id"]) == set()
    await updated(ida, second, isPrimary=True)
    error = {
        "code": "BAD_INPUT",
        "message": "What is in the trash can't be the primary.",
        "path": ["input", "isPrimary"],
    }
    payload = await ida.ask(UPDATE, input={"id": first, "isPrimary": True})
    assert payload == {"media": None, "duplicateOf": None, "errors": [error]}
    assert await primaries(ida, person["id"]) == {second}


# ---------------------------------------------------------------- filters and orders


def day(number: int) -> datetime:
    return EPOCH + timedelta(days=number)


ROWS: list[dict[str, Any]] = [
    {"created_at": day(0), "taken_at": day(-30), "tags": ["sea"], "sort_order": 2, "alt_text": "A boat"},
    {"created_at": day(1), "kind": "DOCUMENT", "content_type": "application/pdf", "sort_order": 1},
    {"created_at": day(2), "taken_at": day(-10), "tags": ["sea", "ship"], "sort_order": 1},
    {"created_at": day(3), "status": "FAILED", "failure_code": "CORRUPT", "failure_message": "", "sort_order": -1},
    {"created_at": day(4), "taken_at": day(-20), "status": "UPLOADED", "tags": ["ship"], "sort_order": 0},
    {"created_at": day(5), "deleted_at": day(6), "taken_at": day(-5), "tags": ["sea"]},
    {"created_at": day(6), "kind": "VIDEO", "content_type": "video/mp4", "alt_text": "A film", "sort_order": 5},
]


@pytest.fixture
async def shelf(unattended: Server, ida: Account) -> tuple[str, list[str]]:
    """A tag of its own, and the media of ROWS, which all have it."""
    tag = secrets.token_hex(8)
    rows = [{**row, "tags": [*row.get("tags", []), tag]} for row in ROWS]
    return tag, await insert_media(dsn_of(unattended), ida.id, rows)


FILTERS: list[tuple[Json, list[int]]] = [
    ({}, [6, 4, 3, 2, 1, 0]),
    ({"kinds": ["IMAGE"]}, [4, 3, 2, 0]),
    ({"kinds": ["DOCUMENT", "VIDEO"]}, [6, 1]),
    ({"kinds": []}, []),
    ({"kinds": None}, [6, 4, 3, 2, 1, 0]),
    ({"statuses": ["FAILED", "UPLOADED"]}, [4, 3]),
    ({"statuses": []}, []),
    ({"tags": ["sea"]}, [2, 0]),
    ({"tags": ["sea", "ship"]}, [2]),
    ({"tags": ["ship", " sea "]}, [2]),
    ({"tags": ["boat"]}, []),
    ({"takenAfter": "2023-12-11T23:59:59.999999Z"}, [4, 2]),
    ({"takenAfter": "2023-12-12T00:00:00Z"}, [2]),
    ({"takenBefore": "2023-12-22T00:00:00Z"}, [4, 0]),
    ({"takenAfter": "2023-12-03T00:00:00+01:00", "takenBefore": "2023-12-12T00:00:01Z"}, [4]),
    ({"uploadedAfter": "2024-01-03T00:00:00Z"}, [6, 4, 3]),
    ({"uploadedBefore": "2024-01-03T00:00:00Z"}, [1, 0]),
    ({"uploadedAfter": "0001-01-01T00:00:00Z", "uploadedBefore": "9999-12-31T23:59:59Z"}, [6, 4, 3, 2, 1, 0]),
    ({"missingAltText": True}, [4, 3, 2, 1]),
    ({"missingAltText": False}, [6, 0]),
    ({"inTrash": True}, [5]),
    ({"inTrash": False}, [6, 4, 3, 2, 1, 0]),
    ({"inTrash": True, "kinds": ["VIDEO"]}, []),
    ({"kinds": ["IMAGE"], "statuses": ["READY"], "tags": ["sea"], "missingAltText": True}, [2]),
]


async def test_every_filter(ida: Account, shelf: tuple[str, list[str]]) -> None:
    tag, ids = shelf
    for given, expected in FILTERS:
        page = await ida.ask(LIST, filter={**given, "tags": [tag, *given.get("tags", [])]}, first=100)
        assert ([ids.index(node["id"]) for node in page["nodes"]], page["totalCount"]) == (
            expected,
            len(expected),
        ), given


@pytest.mark.parametrize("tag", ["", "nul\x00", "a" * 101])
async def test_what_can_be_no_tag_is_told(ida: Account, tag: str) -> None:
    answer = await ida.post(LIST, filter={"tags": [tag]})
    assert answer["data"] is None
    assert [error["extensions"] for error in answer["errors"]] == [{"code": "BAD_INPUT"}]


ORDERS = {
    None: [6, 4, 3, 2, 1, 0],
    "NEWEST": [6, 4, 3, 2, 1, 0],
    "OLDEST": [0, 1, 2, 3, 4, 6],
    "TAKEN_NEWEST": [2, 4, 0, 6, 3, 1],
    "TAKEN_OLDEST": [0, 4, 2, 1, 3, 6],
    "GALLERY": [3, 4, 1, 2, 0, 6],
}


@pytest.mark.parametrize("order", ORDERS)
async def test_every_order_by_the_page(ida: Account, shelf: tuple[str, list[str]], order: str | None) -> None:
    tag, ids = shelf
    for size in (1, 2, 4, 6, 100):
        found: list[str] = []
        after, more = None, True
        while more:
            page = await ida.ask(LIST, filter={"tags": [tag]}, order=order, first=size, after=after)
            found += [node["id"] for node in page["nodes"]]
            after, more = page["pageInfo"]["endCursor"], page["pageInfo"]["hasNextPage"]
            assert (len(page["nodes"]) == size or not more, page["totalCount"]) == (True, 6)
        assert [ids.index(one) for one in found] == ORDERS[order]


async def test_a_gallery_of_an_entity(ida: Account) -> None:
    person = await ida.person()
    media = [await picture(ida, entityId=person["id"]) for _ in range(3)]
    document = await picture(ida, entityId=person["id"], slot="documents")
    for index, place in enumerate((2, 0, 1)):
        await updated(ida, media[index]["id"], sortOrder=place)
    query = """query($id: ID!, $slot: String) { person(id: $id) {
        media(slot: $slot, orderBy: GALLERY, first: 2) { nodes { id } totalCount pageInfo { hasNextPage } } } }"""
    assert await ida.ask(query, id=person["id"], slot="photos") == {
        "media": {
            "nodes": [{"id": media[1]["id"]}, {"id": media[2]["id"]}],
            "totalCount": 3,
            "pageInfo": {"hasNextPage": True},
        }
    }
    assert (await ida.ask(query, id=person["id"], slot="documents"))["media"]["nodes"] == [{"id": document["id"]}]
    nothing = {"media": {"nodes": [], "totalCount": 0, "pageInfo": {"hasNextPage": False}}}
    for slot in ("garden", "", "\x00"):
        assert await ida.ask(query, id=person["id"], slot=slot) == nothing


# ---------------------------------------------------------------- what has no bytes


async def test_what_has_no_bytes_is_listed_only_where_it_is_asked_for(unattended: Server, ida: Account) -> None:
    person = await ida.person()
    tag = secrets.token_hex(8)
    lost = {"lost_at": EPOCH, "status": "FAILED", "failure_code": "STORAGE", "failure_message": "Gone."}
    failed = {"status": "FAILED", "failure_code": "CORRUPT", "failure_message": ""}
    rows: list[dict[str, Any]] = [{}, {"status": "PENDING"}, lost, failed]
    rows += [{**row, "deleted_at": day(9)} for row in rows]
    place = {"entity": uuid.UUID(person["id"]), "slot": "photos", "tags": [tag]}
    placed = [{**row, **place, "created_at": day(number)} for number, row in enumerate(rows)]
    ids = await insert_media(dsn_of(unattended), ida.id, placed)
    of_person = """query($id: ID!, $filter: MediaFilter) { person(id: $id) {
        media(filter: $filter, first: 100) { nodes { id } totalCount } } }"""
    cases: list[tuple[Json, list[int]]] = [
        ({}, [3, 0]),
        ({"statuses": None}, [3, 0]),
        ({"statuses": ["PENDING"]}, [1]),
        ({"statuses": ["FAILED"]}, [3, 2]),
        ({"statuses": ["READY", "FAILED", "PENDING"]}, [3, 2, 1, 0]),
        ({"statuses": []}, []),
        ({"inTrash": True}, [7, 4]),
        ({"inTrash": True, "statuses": ["PENDING", "FAILED"]}, [7, 6, 5]),
    ]
    for given, expected in cases:
        which = {**given, "tags": [tag]}
        library = await ida.ask(LIST, filter=which, first=100)
        of_entity = (await ida.ask(of_person, id=person["id"], filter=which))["media"]
        for page in (library, of_entity):
            assert ([ids.index(node["id"]) for node in page["nodes"]], page["totalCount"]) == (
                expected,
                len(expected),
            ), given
    urls = [(media["url"], media["urlExpiresAt"]) for media in [await ida.ask(GET, id=one) for one in ids]]
    assert [url != (None, None) for url in urls] == [True, False, False, True] * 2


@pytest.mark.parametrize("slot", ["avatar", "cover"])
async def test_a_slot_for_one_shows_what_has_bytes(unattended: Server, ida: Account, slot: str) -> None:
    profile = await ida.profile((await ida.person())["id"])
    place = {"entity": uuid.UUID(profile["id"]), "slot": slot}
    lost = {"lost_at": EPOCH, "status": "FAILED", "failure_code": "STORAGE", "failure_message": "Gone."}
    query = f"query($id: ID!) {{ profile(id: $id) {{ {slot} {{ id }} }} }}"
    await insert_media(dsn_of(unattended), ida.id, [{**place, "status": "PENDING"}, {**place, **lost}])
    assert await ida.ask(query, id=profile["id"]) == {slot: None}
    (there,) = await insert_media(dsn_of(unattended), ida.id, [place])
    await insert_media(dsn_of(unattended), ida.id, [{**place, "status": "PENDING"}, {**place, **lost}])
    assert await ida.ask(query, id=profile["id"]) == {slot: {"id": there}}


# ---------------------------------------------------------------- node


async def test_every_type_is_a_node(ida: Account) -> None:
    person = await ida.person()
    profile = await ida.profile(person["id"])
    media = await picture(ida)
    query = """query($id: ID!) { node(id: $id) { __typename id
        ... on User { displayName } ... on Entity { name } ... on Media { filename } } }"""
    assert [await ida.ask(query, id=given) for given in (ida.id, person["id"], profile["id"], media["id"])] == [
        {"__typename": "User", "id": ida.id, "displayName": "Ida"},
        {"__typename": "Person", "id": person["id"], "name": "Grace Hopper"},
        {"__typename": "Profile", "id": profile["id"], "name": "Grace Hopper"},
        {"__typename": "Media", "id": media["id"], "filename": "photo.jpg"},
    ]
    assert await ida.ask("query($id: ID!) { person(id: $id) { id } profile(id: $id) { id } }", id=media["id"]) == {
        "person": None,
        "profile": None,
    }


# ---------------------------------------------------------------- deleteMedia


async def test_into_the_trash_each_for_itself(unattended: Server, ida: Account, bob: Account) -> None:
    mine, gone = await picture(ida), await picture(ida)
    his = await picture(bob, isPublic=True)
    await ida.ask(DELETE, ids=[gone["id"]])
    (before,) = await fetch(unattended, "SELECT * FROM media WHERE id = $1", uuid.UUID(gone["id"]))
    unknown = str(uuid.uuid4())
    payload = await ida.ask(DELETE, ids=[mine["id"], his["id"], unknown, gone["id"], "17", mine["id"]])
    forbidden = {"code": "FORBIDDEN", "message": "You may not change this media.", "path": None}
    at = payload["results"][0]["media"]["deletedAt"]
    in_trash = {"id": mine["id"], "status": "UPLOADED", "deletedAt": at, "failure": None}
    there = {**in_trash, "id": gone["id"], "deletedAt": payload["results"][3]["media"]["deletedAt"]}
    assert payload == {
        "results": [
            {"index": 0, "id": mine["id"], "media": in_trash, "errors": []},
            {"index": 1, "id": his["id"], "media": None, "errors": [forbidden]},
            {"index": 2, "id": unknown, "media": None, "errors": [NOT_FOUND]},
            {"index": 3, "id": gone["id"], "media": there, "errors": []},
            {"index": 4, "id": "17", "media": None, "errors": [NOT_FOUND]},
            {"index": 5, "id": mine["id"], "media": in_trash, "errors": []},
        ],
        "errors": [],
    }
    # What was in the trash stays as it was, to the day from which the 30 are counted.
    assert await fetch(unattended, "SELECT * FROM media WHERE id = $1", uuid.UUID(gone["id"])) == [before]
    trash = await ida.ask("{ library(filter: {inTrash: true}) { nodes { id } } }")
    assert trash == {"nodes": [{"id": gone["id"]}, {"id": mine["id"]}]}
    kinds = "SELECT kind FROM event WHERE media = $1 ORDER BY id"
    events = await fetch(unattended, kinds, uuid.UUID(mine["id"]))
    assert [event["kind"] for event in events] == ["UPLOADED", "TRASHED"]
    assert (await ida.http.get(mine["url"])).status_code == 200


@pytest.mark.parametrize("change", [DELETE, REPROCESS])
async def test_how_many_at_once(ida: Account, change: str) -> None:
    assert await ida.ask(change, ids=[]) == {"results": [], "errors": []}
    ids = [str(uuid.uuid4()) for _ in range(101)]
    assert len((await ida.ask(change, ids=ids[:100]))["results"]) == 100
    error = {"code": "BAD_INPUT", "message": "Up to 100 ids at once.", "path": ["input", "ids"]}
    assert await ida.ask(change, ids=ids) == {"results": [], "errors": [error]}


# ---------------------------------------------------------------- reprocessMedia


async def test_ready_and_failed_are_processed_again(server: Server, ada: Account) -> None:
    first, second = [await ada.settled((await ada.uploaded(photograph(300, 200)))["id"]) for _ in range(2)]
    spoil = """UPDATE media SET status = 'FAILED', failure_code = 'CRASHED', failure_message = 'It fell over.',
        processing_attempts = 3, width = NULL WHERE id = $1"""
    await execute(dsn_of(server), spoil, uuid.UUID(second["id"]))
    await execute(dsn_of(server), "DELETE FROM variant WHERE media = $1", uuid.UUID(second["id"]))
    failed = await ada.ask(GET, id=second["id"])
    assert (failed["failure"], failed["variants"]) == ({"code": "CRASHED", "message": "It fell over."}, [])

    payload = await ada.ask(REPROCESS, ids=[first["id"], second["id"]])
    assert payload == {
        "results": [
            {
                "index": index,
                "id": media["id"],
                "media": {"id": media["id"], "status": "UPLOADED", "deletedAt": None, "failure": None},
                "errors": [],
            }
            for index, media in enumerate((first, second))
        ],
        "errors": [],
    }
    for media in (first, second):
        again = await ada.settled(media["id"])
        urls = [variant["url"] for variant in again["variants"]]
        assert again == {
            **media,
            "updatedAt": again["updatedAt"],
            "url": again["url"],
            "urlExpiresAt": again["urlExpiresAt"],
            "variants": [{**variant, "url": url} for variant, url in zip(media["variants"], urls, strict=True)],
        }
        assert again["updatedAt"] > media["updatedAt"]
        for variant in again["variants"]:
            assert len((await ada.http.get(variant["url"])).content) == variant["sizeBytes"]


async def test_what_waits_or_has_no_bytes_is_not_processed_again(unattended: Server, ida: Account) -> None:
    waiting, gone = await picture(ida), await picture(ida)
    await ida.ask(DELETE, ids=[gone["id"]])
    lost = {"lost_at": EPOCH, "status": "FAILED", "failure_code": "STORAGE", "failure_message": "Gone."}
    pending, lost_id = await insert_media(dsn_of(unattended), ida.id, [{"status": "PENDING"}, lost])
    before = await footprint(unattended)
    error = {"code": "BAD_INPUT", "message": "This is in the trash, or has no bytes.", "path": ["input", "ids"]}
    assert await ida.ask(REPROCESS, ids=[waiting["id"], gone["id"], pending, lost_id]) == {
        "results": [
            {
                "index": 0,
                "id": waiting["id"],
                "media": {"id": waiting["id"], "status": "UPLOADED", "deletedAt": None, "failure": None},
                "errors": [],
            },
            {"index": 1, "id": gone["id"], "media": None, "errors": [error]},
            {"index": 2, "id": pending, "media": None, "errors": [error]},
            {"index": 3, "id": lost_id, "media": None, "errors": [error]},
        ],
        "errors": [],
    }
    assert await footprint(unattended) == before
