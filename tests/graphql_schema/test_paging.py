"""Pages that hold while rows come and go, and what is no page."""

from __future__ import annotations

import base64
import json
import secrets
import uuid
from datetime import timedelta
from typing import Any

import pytest

from tests.client import Account, Json
from tests.graphql_schema.rows import EPOCH, dsn_of, execute, insert_media
from tests.server import Server

LIBRARY = """query($tags: [String!], $order: MediaOrder, $first: Int, $after: String) {
    library(filter: {tags: $tags}, orderBy: $order, first: $first, after: $after) {
        nodes { id } edges { cursor node { id } }
        pageInfo { hasNextPage hasPreviousPage startCursor endCursor } totalCount } }"""
FIRST = {"message": "`first` is from 0 to 100.", "code": "BAD_INPUT"}
CURSOR = {"message": "This cursor is not one of this list in this order.", "code": "BAD_INPUT"}
NOBODY = str(uuid.UUID(int=0))


@pytest.fixture
def tag() -> str:
    """What the media of one test have in common."""
    return secrets.token_hex(8)


async def shelved(server: Server, who: Account, tag: str, minutes: list[int], **columns: Any) -> list[str]:
    """Media of these minutes."""
    rows = [{"tags": [tag], "created_at": EPOCH + timedelta(minutes=minute), **columns} for minute in minutes]
    return await insert_media(dsn_of(server), who.id, rows)


def cursor(*values: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(values).encode()).rstrip(b"=").decode()


async def refused(who: Account, query: str, **variables: Any) -> Json:
    answer = await who.post(query, **variables)
    assert answer["data"] in (None, {"viewer": None})
    (error,) = answer["errors"]
    return {"message": error["message"], **error["extensions"]}


async def test_a_connection_is_as_relay_knows_it(unattended: Server, ida: Account, tag: str) -> None:
    ids = await shelved(unattended, ida, tag, [0, 1, 2])
    page = await ida.ask(LIBRARY, tags=[tag], first=2)
    cursors = [edge["cursor"] for edge in page["edges"]]
    assert page == {
        "nodes": [{"id": ids[2]}, {"id": ids[1]}],
        "edges": [{"cursor": cursors[0], "node": {"id": ids[2]}}, {"cursor": cursors[1], "node": {"id": ids[1]}}],
        "pageInfo": {
            "hasNextPage": True,
            "hasPreviousPage": False,
            "startCursor": cursors[0],
            "endCursor": cursors[1],
        },
        "totalCount": 3,
    }
    rest = await ida.ask(LIBRARY, tags=[tag], first=2, after=cursors[1])
    last = rest["edges"][0]["cursor"]
    assert rest == {
        "nodes": [{"id": ids[0]}],
        "edges": [{"cursor": last, "node": {"id": ids[0]}}],
        "pageInfo": {"hasNextPage": False, "hasPreviousPage": True, "startCursor": last, "endCursor": last},
        "totalCount": 3,
    }
    nothing = {"hasNextPage": False, "hasPreviousPage": True, "startCursor": None, "endCursor": None}
    assert await ida.ask(LIBRARY, tags=[tag], after=last) == {
        "nodes": [],
        "edges": [],
        "pageInfo": nothing,
        "totalCount": 3,
    }


@pytest.mark.parametrize("order", ["NEWEST", "OLDEST", "TAKEN_NEWEST", "TAKEN_OLDEST", "GALLERY"])
async def test_pages_hold_while_rows_come_and_go(unattended: Server, ida: Account, tag: str, order: str) -> None:
    there = await shelved(unattended, ida, tag, list(range(10)))
    found: list[str] = []
    gone: set[str] = set()
    after, more = None, True
    while more:
        page = await ida.ask(LIBRARY, tags=[tag], order=order, first=3, after=after)
        found += [node["id"] for node in page["nodes"]]
        after, more = page["pageInfo"]["endCursor"], page["pageInfo"]["hasNextPage"]
        # Something new before all, the last row of this page away, and one that is still to come.
        ahead = order not in ("NEWEST", "TAKEN_NEWEST")
        await shelved(unattended, ida, tag, [-1 if ahead else 100], sort_order=-1)
        unseen = [one for one in there if one not in found and one not in gone]
        for one in [found[-1], *unseen[:1]]:
            gone.add(one)
            await execute(dsn_of(unattended), "DELETE FROM media WHERE id = $1", uuid.UUID(one))
    expected = [one for one in there if one in found or one not in gone]
    assert len(found) == len(set(found))
    if order in {"TAKEN_OLDEST", "TAKEN_NEWEST"}:
        # None knows when it was taken: they come in the order of their ids, and the new ones are among them.
        assert [one for one in found if one in there] == sorted(expected, reverse=order == "TAKEN_NEWEST")
    else:
        assert found == (expected[::-1] if order == "NEWEST" else expected)


@pytest.mark.parametrize("order", ["NEWEST", "OLDEST", "TAKEN_NEWEST", "TAKEN_OLDEST", "GALLERY"])
async def test_equal_times_are_told_apart(unattended: Server, ida: Account, tag: str, order: str) -> None:
    ids = await shelved(unattended, ida, tag, [0] * 7, taken_at=EPOCH)
    found: list[str] = []
    after, more = None, True
    while more:
        page = await ida.ask(LIBRARY, tags=[tag], order=order, first=2, after=after)
        found += [node["id"] for node in page["nodes"]]
        after, more = page["pageInfo"]["endCursor"], page["pageInfo"]["hasNextPage"]
    assert found == (ids[::-1] if order.endswith("NEWEST") else ids)


async def test_how_long_a_page_may_be(unattended: Server, ida: Account, tag: str) -> None:
    await shelved(unattended, ida, tag, list(range(101)))
    people = "query($first: Int) { viewer { people(first: $first) { nodes { id } } } }"
    nothing = {"hasNextPage": True, "hasPreviousPage": False, "startCursor": None, "endCursor": None}
    assert await ida.ask(LIBRARY, tags=[tag], first=0) == {
        "nodes": [],
        "edges": [],
        "pageInfo": nothing,
        "totalCount": 101,
    }
    for given, length in (({"first": 100}, 100), ({"first": 1}, 1), ({"first": None}, 30), ({}, 30)):
        page = await ida.ask(LIBRARY, tags=[tag], **given)
        assert (len(page["nodes"]), page["pageInfo"]["hasNextPage"], page["totalCount"]) == (length, True, 101)
    for first in (101, -1, 2**31 - 1, -(2**31)):
        assert await refused(ida, LIBRARY, first=first) == FIRST
        assert await refused(ida, people, first=first) == FIRST
    assert (await ida.post(LIBRARY, first=2**31))["errors"][0]["extensions"] == {"code": "GRAPHQL_VALIDATION_FAILED"}


NOW = EPOCH.isoformat()
BAD_CURSORS = {
    "empty": "",
    "garbage": "garbage",
    "not base64": "!!!",
    "not ASCII": "é",
    "a NUL": "\x00",
    "no list": base64.urlsafe_b64encode(b'{"newest": 1}').decode(),
    "no JSON": base64.urlsafe_b64encode(b"newest").decode(),
    "an empty list": cursor(),
    "nothing but the name": cursor("newest"),
    "too long": cursor("newest", NOW, NOBODY, NOBODY),
    "of another order": cursor("oldest", NOW, NOBODY),
    "no instant": cursor("newest", "now", NOBODY),
    "a number for an instant": cursor("newest", 1704067200, NOBODY),
    "null for an instant": cursor("newest", None, NOBODY),
    "an instant of no year": cursor("newest", "0001-01-01T00:00:00+23:59", NOBODY),
    "no UUID": cursor("newest", NOW, "17"),
    "a number for a UUID": cursor("newest", NOW, 17),
    "null for a UUID": cursor("newest", NOW, None),
    "a list for a UUID": cursor("newest", NOW, [NOBODY]),
    "brackets in brackets": base64.urlsafe_b64encode(b"[" * 100_000).decode(),
}


async def test_what_is_no_cursor_is_told(ida: Account) -> None:
    people = "query($after: String) { viewer { people(after: $after) { nodes { id } } } }"
    for what, after in BAD_CURSORS.items():
        assert (what, await refused(ida, LIBRARY, after=after)) == (what, CURSOR)
        assert (what, await refused(ida, people, after=after)) == (what, CURSOR)
    for order, after in (
        ("GALLERY", cursor("gallery", 2**31, NOW, NOBODY)),
        ("GALLERY", cursor("gallery", -(2**40), NOW, NOBODY)),
        ("GALLERY", cursor("gallery", 1e300, NOW, NOBODY)),
        ("GALLERY", cursor("gallery", "one", NOW, NOBODY)),
        ("GALLERY", cursor("gallery", None, NOW, NOBODY)),
        ("GALLERY", cursor("newest", NOW, NOBODY)),
        ("TAKEN_NEWEST", cursor("taken-newest", "infinity", NOBODY)),
        ("TAKEN_OLDEST", cursor("taken-oldest", "-infinity", NOBODY)),
        ("TAKEN_OLDEST", cursor("taken-newest", NOW, NOBODY)),
    ):
        assert (after, await refused(ida, LIBRARY, order=order, after=after)) == (after, CURSOR)


async def test_a_cursor_needs_no_row(unattended: Server, ida: Account, tag: str) -> None:
    first, second = await shelved(unattended, ida, tag, [0, 1])
    between = cursor("newest", (EPOCH + timedelta(seconds=30)).isoformat(), NOBODY)
    page = await ida.ask(LIBRARY, tags=[tag], after=between)
    assert page["nodes"] == [{"id": first}]
    other_people = await ida.ask(LIBRARY, tags=[tag], order="OLDEST", after=cursor("oldest", NOW, first))
    assert other_people["nodes"] == [{"id": second}]
