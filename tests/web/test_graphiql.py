"""GraphiQL in a real browser: what a person types there is what arrives."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.web.graphiql import RESPONSE, VARIABLES, GraphiQL, graphiql_at, needs_chromium
from tests.web.server import serve

pytestmark = needs_chromium


@pytest.fixture
async def graphiql() -> AsyncIterator[GraphiQL]:
    async with serve() as address, graphiql_at(address) as opened:
        yield opened


async def test_it_opens_with_the_worked_example(graphiql: GraphiQL) -> None:
    assert await graphiql.page.evaluate("document.title") == "Heirloom"
    await graphiql.shows(VARIABLES, '"file": "file:1"')
    await graphiql.page.click(".graphiql-execute-button")
    await graphiql.page.wait_for_element("[role=menuitem]")
    steps = await graphiql.page.evaluate(
        "[...document.querySelectorAll('[role=menuitem]')].map(item => item.innerText)"
    )
    assert steps == ["Register", "Login", "CreatePerson", "UploadPhotograph", "WatchProcessing", "Library"]


async def test_a_query_carries_the_headers_of_the_editor(graphiql: GraphiQL) -> None:
    await graphiql.set_headers(Authorization="Bearer typed")
    await graphiql.run('query Header { header(name: "authorization") }')
    await graphiql.shows(RESPONSE, '{"data": {"header": "Bearer typed"}}')


async def test_a_subscription_carries_them_in_connection_init(graphiql: GraphiQL) -> None:
    await graphiql.set_headers(Authorization="Bearer typed")
    await graphiql.run("subscription First { connection }")
    await graphiql.shows(RESPONSE, '{"data": {"connection": {"authorization": "Bearer typed"}}}')

    await graphiql.page.click(".graphiql-execute-button")  # stops it
    await graphiql.set_headers(Authorization="Bearer another")
    await graphiql.run("subscription Second { connection }")
    await graphiql.shows(RESPONSE, '{"data": {"connection": {"authorization": "Bearer another"}}}')


async def test_chosen_files_are_sent_where_the_variables_name_them(graphiql: GraphiQL, tmp_path: Path) -> None:
    files = {"one.jpg": b"first", "two.jpg": b"second"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    await graphiql.choose_files(*(tmp_path / name for name in files))

    await graphiql.set_variables(files=["file:2", "file:one.jpg"], unused="file:9")
    await graphiql.run("mutation Send($files: [Upload!]!) { upload(files: $files) }")

    received = [f"{name} {hashlib.sha256(files[name]).hexdigest()}" for name in ("two.jpg", "one.jpg")]
    await graphiql.shows(RESPONSE, json.dumps({"data": {"upload": received}}))


async def test_a_file_that_is_not_chosen_is_said_before_anything_is_sent(graphiql: GraphiQL) -> None:
    await graphiql.set_variables(files=["file:1"])
    await graphiql.run("mutation Send($files: [Upload!]!) { upload(files: $files) }")
    await graphiql.shows(RESPONSE, r'"The variables name \"file:1\", which is not chosen: add it under Files')


async def test_an_answer_fills_in_what_the_next_step_needs(graphiql: GraphiQL) -> None:
    login = 'mutation Login{} {{ login(token: "{}", person: "{}") {{ accessToken person {{ id }} }} }}'
    await graphiql.set_variables(person="", other="")

    await graphiql.run(login.format(1, "first", "p1"))
    await graphiql.shows(VARIABLES, '"person": "p1", "other": ""')
    await graphiql.headers_show('{"Authorization": "Bearer first"}')

    await graphiql.run(login.format(2, "second", "p2"))
    await graphiql.page.click("[data-name=variables]")
    await graphiql.shows(VARIABLES, '"person": "p2", "other": ""')
    await graphiql.headers_show('{"Authorization": "Bearer second"}')
    remembered = await graphiql.page.evaluate("JSON.stringify(localStorage) + JSON.stringify(sessionStorage)")
    assert "Bearer" not in remembered

    # What a person typed is theirs.
    await graphiql.set_headers(Authorization="Bearer typed")
    await graphiql.set_variables(person="typed")
    await graphiql.run(login.format(3, "third", "p3"))
    await graphiql.shows(RESPONSE, '"accessToken": "third"')
    await graphiql.shows(VARIABLES, '{"person": "typed"}')
    await graphiql.headers_show('{"Authorization": "Bearer typed"}')


async def test_a_refused_socket_says_why_and_a_carried_token_goes(graphiql: GraphiQL) -> None:
    await graphiql.run('mutation Login { login(token: "expired", person: "") { accessToken } }')
    await graphiql.headers_show("Bearer expired")
    await graphiql.run("subscription Second { connection }")
    await graphiql.shows(RESPONSE, "The socket was closed: 4403 Forbidden. Look at the token under Headers.")
    await graphiql.headers_show("{}")


async def test_a_refused_request_says_why_and_a_carried_token_goes(graphiql: GraphiQL) -> None:
    await graphiql.run('mutation Login { login(token: "expired", person: "") { accessToken } }')
    await graphiql.headers_show("Bearer expired")
    await graphiql.run('query Header { header(name: "authorization") }')
    await graphiql.shows(RESPONSE, '{"errors": [{"message": "The token has expired."}]}')
    await graphiql.headers_show("{}")
    # Chromium's own note of the status, and nothing beside it.
    [note] = graphiql.page.problems
    assert "status of 401" in note
    graphiql.page.problems.clear()
