"""Look-alikes: which, in which order, and of whom; through an index up to 11 bits, by comparing with all beyond."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app.similar import MOST_CANDIDATES
from tests.client import PASSWORD, Account, Client, Json
from tests.graphql_schema.rows import EPOCH, dsn_of, execute, insert_media
from tests.graphql_schema.test_statements import REGISTER, ask, in_this_process, logged, one_connection
from tests.postgres import create_database, drop_database
from tests.server import Server

SIMILAR = """query($id: ID!, $within: Int, $first: Int) { media(id: $id) {
    similar(maxDistance: $within, first: $first) { distance media { id } } } }"""
PUBLIC = """query($id: String!, $within: Int) { publicMedia(publicId: $id) {
    similar(maxDistance: $within, first: 100) { distance media { id } } } }"""
LIST = """query($first: Int!, $within: Int!) { library(first: $first) { nodes {
    id similar(maxDistance: $within) { distance media { id filename } }
    nearest: similar(first: 1) { media { id } } } } }"""

# Older media of the owner of the first, in series of five: of each the hashes differ from one another in a few bits.
FILL = """INSERT INTO media SELECT filled.* FROM media AS one,
    generate_series(1, {count}) AS number, LATERAL jsonb_populate_record(one, jsonb_build_object(
        'id', gen_random_uuid(), 'public_id', 'MED-' || number, 'storage_key', 'filled/' || number,
        'sha256', lpad(number::text, 64, '0'), 'created_at', one.created_at - number * interval '1 minute',
        'perceptual_hash', lpad(to_hex(('x' || md5((number / 5)::text))::bit(64)::bigint
            # (1::bigint << number % 61) # (1::bigint << number % 59)), 16, '0'))) AS filled
    WHERE one.id = (SELECT id FROM media ORDER BY id LIMIT 1)"""

# So many more of the same hash.
MULTIPLY = """INSERT INTO media SELECT filled.* FROM media AS one,
    generate_series(1, $1) AS number, LATERAL jsonb_populate_record(one, jsonb_build_object(
        'id', gen_random_uuid(), 'public_id', one.public_id || number, 'storage_key', one.storage_key || number,
        'sha256', md5(one.public_id || number) || md5(number::text))) AS filled"""

FLAT, BLACK = "8000000000000000", "0000000000000000"
REACH = 11  # bits, up to which the index is used
FAR = 12  # and what others have put there is still farther away
INDEX = "media_looks"


def off_by(looks: int, *bits: int) -> int:
    for bit in bits:
        looks ^= 1 << bit
    return looks


def spread(count: int) -> list[int]:
    """So many bits, evenly over the quarters of a hash: the hardest to find by quarters."""
    return [16 * (number % 4) + number // 4 for number in range(count)]


async def looking(server: Server, who: Account, *looks: int | str | None, **columns: Any) -> list[str]:
    """Media of these hashes, each a minute newer than the one before."""
    hashes = [f"{each:016x}" if isinstance(each, int) else each for each in looks]
    rows = [
        {"perceptual_hash": each, "created_at": EPOCH + timedelta(minutes=minute), **columns}
        for minute, each in enumerate(hashes)
    ]
    return await insert_media(dsn_of(server), who.id, rows)


async def similar(who: Client, media: str, within: int | None = FAR, first: int | None = 100) -> list[tuple[int, str]]:
    found = (await who.ask(SIMILAR, id=media, within=within, first=first))["similar"]
    return [(each["distance"], each["media"]["id"]) for each in found]


async def refused(who: Client, media: str, **variables: Any) -> Json:
    answer = await who.post(SIMILAR, id=media, **variables)
    assert answer["data"] == {"media": None}
    (error,) = answer["errors"]
    return {"message": error["message"], **error["extensions"]}


@pytest.fixture
def looks() -> int:
    """A hash that no other test has: with as many bits set as cleared, as those of photographs."""
    return sum(1 << bit for bit in secrets.SystemRandom().sample(range(64), 32))


# ---------------------------------------------------------------- which, and in which order


async def test_nearest_first_and_of_those_as_near_the_newest(unattended: Server, ida: Account, looks: int) -> None:
    this, far, same, near, newer, none = await looking(
        unattended, ida, looks, off_by(looks, *spread(7)), looks, off_by(looks, 1, 2), off_by(looks, 40, 60), None
    )
    assert await similar(ida, this, within=7) == [(0, same), (2, newer), (2, near), (7, far)]
    assert await similar(ida, this, within=6) == [(0, same), (2, newer), (2, near)]
    assert await similar(ida, this, within=0) == [(0, same)]
    assert await similar(ida, far, within=6) == []
    assert await similar(ida, none) == []


async def test_unless_told_ten_within_six_bits(unattended: Server, ida: Account, looks: int) -> None:
    this, *_ = await looking(unattended, ida, looks, off_by(looks, *spread(7)))
    near = await looking(unattended, ida, *(off_by(looks, *spread(6)) for _ in range(11)))
    expected = [(6, media) for media in reversed(near[1:])]
    assert await similar(ida, this, within=None, first=None) == expected
    given = (await ida.ask(f'{{ media(id: "{this}") {{ similar {{ distance media {{ id }} }} }} }}'))["similar"]
    assert [(each["distance"], each["media"]["id"]) for each in given] == expected


async def test_no_distance_is_missed(unattended: Server, ida: Account, looks: int) -> None:
    others = [off_by(looks, *bits) for count in range(65) for bits in ([*range(count)], spread(count))]
    this, *ids = await looking(unattended, ida, looks, *others)
    all_of_them = [(number // 2, media) for number, media in enumerate(ids)]
    for within in range(REACH + 3):
        expected = sorted((each for each in all_of_them if each[0] <= within), key=lambda each: each[0])
        found = await similar(ida, this, within=within)
        assert [distance for distance, _ in found] == [distance for distance, _ in expected]
        assert sorted(found) == sorted(expected)
    # Whatever there is at all, public media of others among it.
    everything = await similar(ida, this, within=64)
    assert len(everything) == 100
    own = [distance for distance, media in everything if media in ids]
    assert own == [number // 2 for number in range(len(own))]
    assert own[-1] > 32


async def test_first_bounds(unattended: Server, ida: Account, looks: int) -> None:
    this, nearest, _ = await looking(unattended, ida, looks, off_by(looks, 5), off_by(looks, 5, 6))
    for within in (REACH, FAR):
        assert await similar(ida, this, within=within, first=1) == [(1, nearest)]
        assert await similar(ida, this, within=within, first=0) == []


async def test_pictures_of_one_colour_look_like_nothing(unattended: Server, ida: Account) -> None:
    flat, *_ = await looking(unattended, ida, FLAT, FLAT, BLACK)
    nearly, alike = await looking(unattended, ida, "8000000000010001", "8000000000010003")
    assert await similar(ida, flat) == []
    assert await similar(ida, nearly, within=REACH) == [(1, alike)]
    assert await similar(ida, nearly) == [(1, alike)]


@pytest.mark.parametrize("within", [-1, 65, 2**31 - 1])
async def test_distances_that_there_are_not(unattended: Server, amy: Account, within: int) -> None:
    (media,) = await looking(unattended, amy, None)
    message = "`maxDistance` is from 0 to 64."
    assert await refused(amy, media, within=within) == {"message": message, "code": "BAD_INPUT"}


@pytest.mark.parametrize("first", [-1, 101, 2**31 - 1])
async def test_more_than_a_page_is_refused(unattended: Server, amy: Account, first: int) -> None:
    (media,) = await looking(unattended, amy, None)
    assert await refused(amy, media, first=first) == {"message": "`first` is from 0 to 100.", "code": "BAD_INPUT"}


# ---------------------------------------------------------------- of whom


async def test_only_what_lists_show_the_viewer(unattended: Server, ida: Account, bob: Account, looks: int) -> None:
    (this,) = await looking(unattended, ida, looks, is_public=True)
    public, waiting = [
        (await looking(unattended, bob, looks, is_public=True, moderation=moderation))[0]
        for moderation in ("APPROVED", "PENDING")
    ]
    (private,) = await looking(unattended, bob, looks)
    (given,) = await looking(unattended, bob, looks, entity=(await ida.person())["id"], slot="photos")
    (own,) = await looking(unattended, ida, looks)
    await looking(unattended, ida, looks, deleted_at=datetime.now(UTC))
    await looking(unattended, ida, looks, lost_at=EPOCH)
    await looking(unattended, ida, looks, status="PENDING", sha256=None)
    public_id = (await ida.ask("query($id: ID!) { media(id: $id) { publicId } }", id=this))["publicId"]
    async with Client(unattended.url) as nobody:
        for within in (0, REACH, FAR):
            assert {media for _, media in await similar(ida, this, within)} == {public, given, own}
            assert {media for _, media in await similar(bob, this, within)} == {public, waiting, private, given}
            seen = (await nobody.ask(PUBLIC, id=public_id, within=within))["similar"]
            assert seen == [{"distance": 0, "media": {"id": public}}]


async def test_an_admin_sees_all(unattended: Server, ida: Account, bob: Account, looks: int) -> None:
    (this,) = await looking(unattended, ida, looks)
    (other,) = await looking(unattended, bob, looks)
    assert await similar(ida, this) == []
    await execute(dsn_of(unattended), "UPDATE user_account SET role = 'ADMIN' WHERE id::text = $1", ida.id)
    assert await similar(ida, this, within=5) == [(0, other)]


# ---------------------------------------------------------------- for many at once


@pytest.fixture
async def dsn(server_dsn: str, worker_name: str) -> AsyncIterator[str]:
    name = f"similar_{worker_name}"
    yield await create_database(server_dsn, name)
    await drop_database(server_dsn, name)


async def test_a_list_costs_the_same_whatever_its_length(dsn: str, tmp_path: Path) -> None:
    async with in_this_process(dsn, tmp_path) as client:
        given = {"email": "lin@example.org", "password": PASSWORD, "displayName": "Lin"}
        account = await ask(client, REGISTER, input=given)
        client.headers["authorization"] = f"Bearer {account['accessToken']}"
        hashes = [looks for looks in (secrets.token_hex(8) for _ in range(20)) for _twin in range(2)]
        rows = [{"perceptual_hash": looks, "created_at": EPOCH + timedelta(days=1)} for looks in hashes]
        ids = await insert_media(dsn, account["user"]["id"], rows)
        await execute(dsn, FILL.format(count=3000))  # among forty, an index would be of no use
        await execute(dsn, "ANALYZE media")
        twins = {media: ids[number ^ 1] for number, media in enumerate(ids)}
        spoken = []
        async with one_connection() as connection:
            await ask(client, LIST, first=1, within=0)
            for first, within in ((10, 0), (40, 0), (4, 64)):
                with logged(connection) as statements:
                    page = await ask(client, LIST, first=first, within=within)
                spoken.append(len(statements))
                assert len(page["nodes"]) == first
                for node in page["nodes"]:
                    nearest = node["similar"][0]
                    assert (nearest["distance"], nearest["media"]["id"]) == (0, twins[node["id"]])
                    assert node["nearest"] == [{"media": {"id": twins[node["id"]]}}]
            await connection.execute("SELECT pg_stat_force_next_flush()")
            used = await connection.fetchval("SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = $1", INDEX)
    # Who asks, the page; what is near, with the four of a transaction, and the reset; those media. What is far takes a
    # statement of its own.
    assert spoken == [9, 9, 10]
    # For the same and for what is near, twice for each of a list, but once where only one such was asked for.
    assert used == 2 * (2 * (1 + 10 + 40) + 4)


TOO_MANY = "Look-alikes are found for up to 200 media at once, 40 beyond 7 bits, 5 beyond 11: ask for fewer."


def searches(within: int, count: int) -> str:
    """A fragment with so many different ones, for none, for one, for two …"""
    each = "s{first}: similar(maxDistance: {within}, first: {first}) {{ distance }}"
    return f"fragment S on Media {{ {' '.join(each.format(first=first, within=within) for first in range(count))} }}"


async def test_so_much_is_looked_for_in_a_list(unattended: Server, ida: Account, looks: int) -> None:
    await looking(unattended, ida, *[looks] * 51, tags=["alike"])  # others' public media is in the library too
    four = " ".join(f"s{first}: similar(maxDistance: 7, first: {first}) {{ distance }}" for first in range(1, 5))
    listed = 'library(filter: { tags: ["alike"] }, first: $first)'
    query = f"query($first: Int) {{ {listed} {{ nodes {{ {four} }} }} }}"
    nodes = (await ida.ask(query, first=50))["nodes"]
    assert [len(node["s4"]) for node in nodes] == [4] * 50
    answer = await ida.post(query, first=51)
    assert {(error["message"], error["extensions"]["code"]) for error in answer["errors"]} == {(TOO_MANY, "BAD_INPUT")}
    assert answer["data"] is None


@pytest.mark.parametrize(("within", "most"), [(8, 40), (11, 40), (12, 5), (64, 5)])
async def test_so_much_is_looked_for_in_an_operation(
    unattended: Server, ida: Account, looks: int, within: int, most: int
) -> None:
    this, _ = await looking(unattended, ida, looks, looks)
    all_of_it = f'media(id: "{this}") {{ ...S }}'
    for _ in range(2):  # each operation anew
        found = await ida.ask(f"{{ {all_of_it} }} {searches(within, most)}")
        assert [sum(one["distance"] == 0 for one in each) for each in found.values()] == [0] + [1] * (most - 1)
    one_more = f'more: media(id: "{this}") {{ similar(maxDistance: {within}) {{ distance }} }}'
    answer = await ida.post(f"{{ {all_of_it} {one_more} }} {searches(within, most)}")
    assert [(error["message"], error["extensions"]) for error in answer["errors"]] == [
        (TOO_MANY, {"code": "BAD_INPUT"})
    ]
    assert [*answer["data"].values()].count(None) == 1


async def test_levels_of_an_operation_count_together(unattended: Server, ida: Account, looks: int) -> None:
    """Ten alike, of each six others, of each again: 1 + 6 + 36, and a fourth level would be 216."""
    this, *_ = await looking(unattended, ida, *[looks] * 10)
    nested = "similar(first: 6) { distance }"
    for _ in range(2):
        nested = f"similar(first: 6) {{ media {{ id {nested} }} }}"
    query = f'{{ media(id: "{this}") {{ id {{}} }} }}'
    level = (await ida.ask(query.replace("{}", nested)))["similar"]
    assert [len(each["media"]["similar"]) for each in level] == [6] * 6
    answer = await ida.post(query.replace("{}", f"similar(first: 6) {{ media {{ id {nested} }} }}"))
    assert {(each["message"], each["extensions"]["code"]) for each in answer["errors"]} == {(TOO_MANY, "BAD_INPUT")}
    assert answer["data"] == {"media": None}


async def test_each_operation_of_a_socket_is_one(unattended: Server, ida: Account, looks: int) -> None:
    this, _ = await looking(unattended, ida, looks, looks)
    async with ida.socket() as socket:
        for _ in range(2):
            query = f'{{ media(id: "{this}") {{ ...S }} }} {searches(FAR, 5)}'
            (data,) = [data async for data in socket.subscribe(query)]
            assert len(data["media"]) == 5


async def test_what_takes_too_long_ends_and_no_crowd_hides_the_same(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with in_this_process(dsn, tmp_path) as client:
        given = {"email": "max@example.org", "password": PASSWORD, "displayName": "Max"}
        account = await ask(client, REGISTER, input=given)
        client.headers["authorization"] = f"Bearer {account['accessToken']}"
        await insert_media(dsn, account["user"]["id"], [{"perceptual_hash": "00ff00ff00ff00fe"}])
        await execute(dsn, MULTIPLY, 5 * MOST_CANDIDATES)  # which the index gives first
        this, same = await insert_media(dsn, account["user"]["id"], [{"perceptual_hash": "00ff00ff00ff00ff"}] * 2)
        found = (await ask(client, SIMILAR, id=this, within=1, first=3))["similar"]
        assert [each["distance"] for each in found] == [0, 1, 1]
        assert found[0]["media"]["id"] == same

        monkeypatch.setattr("app.similar.STATEMENT_TIMEOUT_MS", 1)
        asked = {"query": SIMILAR, "variables": {"id": this, "within": 64}}
        answer = (await client.post("/graphql", json=asked)).json()
        (error,) = answer["errors"]
        message = "Too much looks alike to be told that fast: ask for fewer, or for nearer ones."
        assert (error["message"], error["extensions"]) == (message, {"code": "RATE_LIMITED"})
        assert answer["data"] == {"media": None}
        monkeypatch.undo()
        assert (await ask(client, SIMILAR, id=this, within=64, first=1))["similar"] == found[:1]
