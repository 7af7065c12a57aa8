"""SQL statements for a page of the library, counted within this process."""

from __future__ import annotations

from pathlib import Path

from app.embedded import EmbeddedPostgres
from app.postmaster import address
from tests.bench.report import Figure
from tests.client import PASSWORD
from tests.graphql_schema.rows import EPOCH, execute, insert_media
from tests.graphql_schema.test_statements import (
    LIBRARY,
    MOST,
    PERSON,
    REGISTER,
    VARIANTS,
    ask,
    in_this_process,
    logged,
    one_connection,
)

PAGES = (10, 100)
ADA = {"email": "ada@example.org", "password": PASSWORD, "displayName": "Ada"}


async def measure(folder: Path) -> list[Figure]:
    figures = []
    with EmbeddedPostgres(folder):
        dsn = address(folder)
        async with in_this_process(dsn, folder) as client:
            signed_in = await ask(client, REGISTER, input=ADA)
            client.headers["authorization"] = f"Bearer {signed_in['accessToken']}"
            person = (await ask(client, PERSON, name="Grace Hopper"))["person"]["id"]
            place = {"entity": person, "slot": "photos", "created_at": EPOCH}
            await insert_media(dsn, signed_in["user"]["id"], [place] * max(PAGES))
            await execute(dsn, VARIANTS)
            async with one_connection() as connection:
                await ask(client, LIBRARY, first=1)  # a connection's first time asks for types, too
                for first in PAGES:
                    with logged(connection) as said:
                        await ask(client, LIBRARY, first=first)
                    figures.append(Figure(f"library(first: {first})", [len(said)], "SQL", MOST))
    return figures
