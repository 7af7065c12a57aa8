"""How many SQL statements a page costs: as many for a hundred media as for ten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

import asyncpg
import httpx
import pytest
from graphql import GraphQLField, GraphQLObjectType, get_named_type, is_leaf_type

from app.main import create_app
from app.migrate import migrate
from app.piccolo_conf import DB
from app.settings import load
from app.wiring import open_services
from graphql_schema.schema import schema
from tests.client import PASSWORD, Json
from tests.graphql_schema.rows import EPOCH, execute, insert_media
from tests.postgres import create_database, drop_database
from tests.server import OF_THE_RUN, SECRET_KEY

MOST = 7
POOL = 2
LIBRARY = """query($first: Int!) { library(first: $first) {
    nodes {
        id publicId kind status failure { code } title tags takenAt url urlExpiresAt createdAt
        owner { id displayName role }
        entity {
            id name owner { id }
            ... on Person { givenName familyName birthDate deathDate biography }
            ... on Profile { bio }
        }
        variants { name url width height sizeBytes }
        thumbnail: variant(name: THUMBNAIL) { url }
    }
    totalCount pageInfo { hasNextPage endCursor }
} }"""
UPLOADS = """{ viewer { uploadSessions {
    id state uploadUrl headers { name value } totalParts parts { partNumber url } uploadedParts { etag }
    media { id status url owner { id } entity { id } variants { name } }
} } }"""
BEGIN = """mutation($size: BigInt!, $entity: ID) {
    createUploadSession(input: {filename: "a.jpg", contentType: "image/jpeg", sizeBytes: $size, entityId: $entity}) {
        session { id }
    }
}"""
REGISTER = "mutation($input: RegisterInput!) { register(input: $input) { accessToken user { id } } }"
PERSON = "mutation($name: String!) { createPerson(input: {name: $name}) { person { id } } }"
PROFILE = "mutation($person: ID!) { createProfile(input: {personId: $person}) { profile { id } } }"
EXIF = "fragment Exif on Media { exif }"
VARIANTS = """INSERT INTO variant (id, media, name, digest, content_type, width, height, size_bytes, storage_key)
    SELECT gen_random_uuid(), media.id, name, 'digest', 'image/webp', 150, 150, 1000, storage_key || name || '.webp'
    FROM media, unnest(ARRAY['THUMBNAIL', 'SMALL', 'MEDIUM', 'LARGE']) AS name"""


@pytest.fixture(scope="module")
async def dsn(server_dsn: str, worker_name: str) -> AsyncIterator[str]:
    name = f"statements_{worker_name}"
    yield await create_database(server_dsn, name)
    await drop_database(server_dsn, name)


@asynccontextmanager
async def in_this_process(dsn: str, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The application, and a client of it, for as long as the block: Piccolo's engine is the process's only one."""
    settings = load(
        {
            **OF_THE_RUN,
            "HEIRLOOM_DATABASE_URL": dsn,
            "HEIRLOOM_DATA_DIR": str(folder),
            "HEIRLOOM_SECRET_KEY": SECRET_KEY,
            "HEIRLOOM_DATABASE_POOL": str(POOL),
        }
    )
    async with open_services(settings, dsn=dsn) as services:
        await migrate()
        transport = httpx.ASGITransport(cast("Any", create_app(services)))  # Litestar types its scope more closely
        async with httpx.AsyncClient(transport=transport, base_url="http://heirloom.example") as client:
            yield client


@asynccontextmanager
async def one_connection() -> AsyncIterator[Any]:
    """All that the application has during the block: which of several took a statement would be left to chance."""
    used, *kept = [await DB.take_connection() for _ in range(POOL)]
    connection = used._con  # asyncpg's own: what the pool hands out stands for it until it is given back
    await DB.give_back(used)
    try:
        yield connection
    finally:
        for proxy in kept:
            await DB.give_back(proxy)


@contextmanager
def logged(connection: Any) -> Iterator[list[str]]:
    """What is said on this connection during the block."""
    statements: list[str] = []

    def note(query: asyncpg.connection.LoggedQuery) -> None:
        statements.append(query.query)

    with connection.query_logger(note):
        yield statements


def fields_of(name: str) -> dict[str, GraphQLField]:
    type_ = schema._schema.get_type(name)
    assert isinstance(type_, GraphQLObjectType)
    return dict(type_.fields)


async def ask(client: httpx.AsyncClient, query: str, **variables: Any) -> Any:
    answer: Json = (await client.post("/graphql", json={"query": query, "variables": variables})).json()
    assert "errors" not in answer, answer["errors"]
    return next(iter(answer["data"].values()))


async def test_a_page_of_the_library_costs_the_same_whatever_its_length(dsn: str, tmp_path: Path) -> None:
    async with in_this_process(dsn, tmp_path) as client:
        given = {"email": "ada@example.org", "password": PASSWORD, "displayName": "Ada"}
        signed_in = await ask(client, REGISTER, input=given)
        client.headers["authorization"] = f"Bearer {signed_in['accessToken']}"
        people = [(await ask(client, PERSON, name=f"Person {number}"))["person"]["id"] for number in range(25)]
        profiles = [(await ask(client, PROFILE, person=person))["profile"]["id"] for person in people]
        rows = [
            {"entity": place, "slot": "photos", "created_at": EPOCH}
            for place in 2 * [one for pair in zip(people, profiles, strict=True) for one in pair]
        ]
        await insert_media(dsn, signed_in["user"]["id"], rows)
        await execute(dsn, VARIANTS)

        spoken: dict[int, list[str]] = {}
        async with one_connection() as connection:
            await ask(client, LIBRARY, first=10)  # a connection's first time asks for types, too
            for first in (10, 100):
                with logged(connection) as statements:
                    page = await ask(client, LIBRARY, first=first)
                spoken[first] = list(statements)
                assert (len(page["nodes"]), page["totalCount"]) == (first, 100)
                for media in page["nodes"]:
                    assert (len(media["variants"]), media["owner"]["displayName"]) == (4, "Ada")
                    assert media["entity"]["name"].startswith("Person ")

    told = "\n\n".join(f"first: {first}\n" + "\n".join(statements) for first, statements in spoken.items())
    # Who asks and owns, the page, its count; entities, persons, profiles, variants.
    assert [len(statements) for statements in spoken.values()] == [MOST, MOST], told


async def test_a_list_reads_no_more_than_it_shows(dsn: str, tmp_path: Path) -> None:
    async with in_this_process(dsn, tmp_path) as client:
        given = {"email": "mary@example.org", "password": PASSWORD, "displayName": "Mary"}
        signed_in = await ask(client, REGISTER, input=given)
        client.headers["authorization"] = f"Bearer {signed_in['accessToken']}"
        facts = {"exif": '{"Make": "Leica"}', "description": "Long", "latitude": 1.5, "longitude": 2.5}
        await insert_media(dsn, signed_in["user"]["id"], [{**facts, "created_at": EPOCH}, {"created_at": EPOCH}])
        async with one_connection() as connection:

            async def listed(selected: str, more: str = "") -> tuple[list[Any], bool]:
                """The nodes, and whether all of their columns were read."""
                query = f"{{ library {{ nodes {{ {selected} }} edges {{ node {{ {selected} {more} }} }} }} }} {EXIF}"
                query = query if "...Exif" in more else query.removesuffix(EXIF)
                with logged(connection) as statements:
                    found = await ask(client, query)
                    await asyncio.sleep(0)  # asyncpg tells of a statement a turn later
                nodes = [edge["node"] for edge in found["edges"]]
                assert more or nodes == found["nodes"]
                return nodes, any('"exif"' in statement for statement in statements)

            shown = set()
            for name, field in fields_of("Media").items():
                asked = f"{name}(name: SMALL)" if name == "variant" else name
                asked += "" if is_leaf_type(get_named_type(field.type)) else " { __typename }"
                nodes, whole = await listed(asked)
                assert [each[name] for each in (await listed(asked, "...Exif"))[0]] == [each[name] for each in nodes]
                if not whole:
                    shown.add(name)
            assert not shown & {"exif", "description", "location", "failure", "similar", "perceptualHash", "updatedAt"}
            assert shown >= {
                "id",
                "title",
                "url",
                "urlExpiresAt",
                "variants",
                "variant",
                "owner",
                "entity",
                "createdAt",
            }
            for more in ("...Exif", "... on Node { ...Exif }", "exif @skip(if: true)", "a: exif"):
                assert (await listed("id", more))[1], more


async def test_uploads_that_go_on_cost_the_same_however_many_they_are(dsn: str, tmp_path: Path) -> None:
    async with in_this_process(dsn, tmp_path) as client:
        given = {"email": "grace@example.org", "password": PASSWORD, "displayName": "Grace"}
        client.headers["authorization"] = f"Bearer {(await ask(client, REGISTER, input=given))['accessToken']}"
        spoken: list[list[str]] = []
        for number in (2, 20):
            for _ in range(number):
                person = (await ask(client, PERSON, name="Somebody"))["person"]["id"]
                for size in (1, 6 * 1024**2):
                    assert (await ask(client, BEGIN, size=size, entity=person))["session"]
            async with one_connection() as connection:
                await ask(client, UPLOADS)
                with logged(connection) as statements:
                    viewer = await ask(client, UPLOADS)
                spoken.append(list(statements))
            assert {len(session["parts"]) for session in viewer["uploadSessions"]} == {0, 1}
    assert len(viewer["uploadSessions"]) == 2 * 22
    # Who asks and owns, with the account; the sessions; their media; these again, for their parts; entities, variants.
    assert [len(statements) for statements in spoken] == [6, 6], "\n".join(spoken[-1])
