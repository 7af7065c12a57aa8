"""Look-alikes among 100,000 media of one owner, over the whole way; and what comparing with all of them takes."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

import httpx

from app.embedded import EmbeddedPostgres
from app.postmaster import address
from tests.bench.report import Figure, milliseconds
from tests.client import PASSWORD
from tests.graphql_schema.rows import EPOCH, execute, insert_media
from tests.graphql_schema.test_similar import FAR, FILL, REACH
from tests.graphql_schema.test_statements import PERSON, REGISTER, ask, in_this_process

MEDIA = 100_000
LIST = 30
NEAR = 6  # bits, unless a client says otherwise
ROUNDS = 15
SLOW_ROUNDS = 3
FEW = 5  # as many as an operation may compare with all

ADA = {"email": "ada@example.org", "password": PASSWORD, "displayName": "Ada"}
SIMILAR = "similar(maxDistance: {within}) {{ distance media {{ id filename }} }}"
PAGE = """query($person: ID!, $first: Int!, $after: String) {{ person(id: $person) {{
    media(first: $first, after: $after) {{ nodes {{ id {similar} }} pageInfo {{ endCursor }} }} }} }}"""


async def measure(folder: Path) -> list[Figure]:
    with EmbeddedPostgres(folder):
        dsn = address(folder)
        async with in_this_process(dsn, folder) as client:
            account = await ask(client, REGISTER, input=ADA)
            client.headers["authorization"] = f"Bearer {account['accessToken']}"
            person: str = (await ask(client, PERSON, name="Grace Hopper"))["person"]["id"]
            twin = {"entity": person, "slot": "photos", "perceptual_hash": "1234567890abcdef", "created_at": EPOCH}
            await insert_media(dsn, account["user"]["id"], [twin, twin])
            await execute(dsn, FILL.format(count=MEDIA))
            await execute(dsn, "VACUUM ANALYZE media")
            await _pages(client, person, 1, NEAR, 1)  # a connection's first time asks for types, too
            return await _figures(client, person)


async def _figures(client: httpx.AsyncClient, person: str) -> list[Figure]:
    each = await _pages(client, person, LIST, NEAR, ROUNDS)
    one = await _pages(client, person, 1, NEAR, ROUNDS)
    compared = await _pages(client, person, 1, FAR, SLOW_ROUNDS)
    return [
        milliseconds(f"one, within {NEAR} bits", one, 20),
        milliseconds(f"each of a list of {LIST}", each, 60),
        milliseconds("  the list without", await _pages(client, person, LIST, None, ROUNDS)),
        milliseconds(f"  within {REACH} bits", await _pages(client, person, LIST, REACH, SLOW_ROUNDS)),
        milliseconds(f"one, within {FAR}, compared with all", compared),
        milliseconds(f"each of a list of {FEW}", await _pages(client, person, FEW, FAR, SLOW_ROUNDS)),
        Figure(f"one, within {NEAR} to within {FAR}", [median(one) / median(compared)], "times", 0.1),
    ]


async def _pages(client: httpx.AsyncClient, person: str, first: int, within: int | None, rounds: int) -> list[float]:
    """Seconds that each page of a person's media takes, with their look-alikes, which they have."""
    query = PAGE.format(similar="" if within is None else SIMILAR.format(within=within))
    taken: list[float] = []
    after = None
    for _ in range(rounds):
        began = time.perf_counter()
        page = (await ask(client, query, person=person, first=first, after=after))["media"]
        taken.append(time.perf_counter() - began)
        assert within is None or sum(len(node["similar"]) for node in page["nodes"]) >= first
        after = page["pageInfo"]["endCursor"]
    return taken
