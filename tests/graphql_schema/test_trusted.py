"""Documents that clients name by an id, and a server that executes no others."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from graphql import get_introspection_query

from app.settings import SettingsError
from graphql_schema.trusted import TrustedDocuments, load
from tests.client import Account, Client, Json, admitted
from tests.postgres import create_database, drop_database
from tests.server import Server, command, environment, running

EMAIL = "query Email { viewer { email } }"
NAME = "query Name($id: ID!) { node(id: $id) { ... on User { displayName } } }"
LOGOUT = "mutation Logout { logout { errors { code } } }"
WATCH = "subscription Watch($id: ID!) { mediaProcessing(mediaId: $id) { status } }"


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def persisted(text: str, **more: Any) -> Json:
    """As Apollo's clients name it."""
    return {"extensions": {"persistedQuery": {"version": 1, "sha256Hash": sha256(text)}}, **more}


def error(code: str, message: str) -> Json:
    return {"errors": [{"message": message, "extensions": {"code": code}}]}


NOT_TRUSTED = error("DOCUMENT_NOT_TRUSTED", "Only trusted documents are executed here.")
NOT_FOUND = error("PERSISTED_QUERY_NOT_FOUND", "PersistedQueryNotFound")
NOT_SUPPORTED = error("PERSISTED_QUERY_NOT_SUPPORTED", "PersistedQueryNotSupported")


@pytest.fixture(scope="module")
async def strict(server_dsn: str, worker_name: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """A server that executes trusted documents only."""
    folder = tmp_path_factory.mktemp("strict")
    manifest = folder / "documents.json"
    manifest.write_text(json.dumps({sha256(each): each for each in (EMAIL, NAME, LOGOUT, WATCH)}))
    name = f"strict_{worker_name}"
    dsn = await create_database(server_dsn, name)
    with running(folder, dsn, worker=False, trusted_documents=manifest, trusted_only="on") as server:
        yield server
    await drop_database(server_dsn, name)


@pytest.fixture(scope="module")
async def una(strict: Server) -> AsyncIterator[Account]:
    async with admitted(strict, "Una") as account:
        yield account


async def asked(who: Client, **request: Any) -> Json:
    answer: Json = (await who.http.post("/graphql", json=request)).json()
    return answer


# ---------------------------------------------------------------- by an id


@pytest.mark.parametrize(
    "request_",
    [
        persisted(EMAIL),
        persisted(EMAIL, query=""),
        persisted(EMAIL, query=None),
        {"documentId": sha256(EMAIL)},
        {"documentId": f"sha256:{sha256(EMAIL)}"},
        {"query": EMAIL},
        persisted(EMAIL, query=EMAIL),
        persisted("something else", query=EMAIL),
    ],
    ids=["Apollo's", "empty query", "null query", "the draft's", "with its algorithm", "text", "both", "text beats id"],
)
async def test_a_trusted_document_is_executed(una: Account, request_: Json) -> None:
    assert await asked(una, **request_) == {"data": {"viewer": {"email": una.email}}}


async def test_a_trusted_document_takes_variables(una: Account) -> None:
    answer = await asked(una, **persisted(NAME, variables={"id": una.id}, operationName="Name"))
    assert answer == {"data": {"node": {"displayName": "Una"}}}


async def test_a_trusted_document_by_get(una: Account) -> None:
    by_extension = {"extensions": json.dumps(persisted(EMAIL)["extensions"])}
    for params in (by_extension, {"documentId": sha256(EMAIL)}):
        answer = await una.http.get("/graphql", params=params)
        assert (answer.status_code, answer.json()) == (200, {"data": {"viewer": {"email": una.email}}})


async def test_a_trusted_mutation_by_get_is_none(una: Account) -> None:
    answer = await una.http.get("/graphql", params={"documentId": sha256(LOGOUT)})
    assert answer.status_code == 405
    assert await asked(una, **persisted(EMAIL)) == {"data": {"viewer": {"email": una.email}}}


async def test_a_trusted_document_on_a_socket(una: Account) -> None:
    async with una.socket() as socket:
        await socket.send({"type": "subscribe", "id": "a", "payload": persisted(EMAIL)})
        message = await socket.receive()
        assert (message["type"], message["payload"]) == ("next", {"data": {"viewer": {"email": una.email}}})
        assert await socket.receive() == {"type": "complete", "id": "a"}


async def test_a_trusted_subscription_on_a_socket(una: Account) -> None:
    async with una.socket() as socket:
        payload = {"documentId": sha256(WATCH), "variables": {"id": una.id}}
        await socket.send({"type": "subscribe", "id": "a", "payload": payload})
        message = await socket.receive()
        errors = message["payload"] if message["type"] == "error" else message["payload"]["errors"]
        assert [each["extensions"]["code"] for each in errors] == ["NOT_FOUND"]  # of the media: it was executed


async def test_an_unknown_id(una: Account) -> None:
    assert await asked(una, **persisted("{ __typename }")) == NOT_FOUND
    assert await asked(una, documentId="nothing") == NOT_FOUND


@pytest.mark.parametrize(
    "request_",
    [
        {"documentId": 17},
        {"extensions": {"persistedQuery": []}},
        {"extensions": {"persistedQuery": {}}},
        {"extensions": {"persistedQuery": {"sha256Hash": 17}}},
    ],
    ids=["a number", "a list", "no hash", "a number as hash"],
)
async def test_what_is_no_id(una: Account, request_: Json) -> None:
    answer = await una.http.post("/graphql", json=request_)
    assert answer.status_code == 400
    assert [each["extensions"]["code"] for each in answer.json()["errors"]] == ["BAD_REQUEST"]


# ---------------------------------------------------------------- and nothing else


@pytest.mark.parametrize(
    "document",
    ["{ __typename }", get_introspection_query(), f"{EMAIL} ", "{", LOGOUT.replace("Logout", "Other")],
    ids=["a query", "introspection", "a space more", "a syntax error", "a mutation"],
)
async def test_other_documents_are_refused(una: Account, document: str) -> None:
    assert await asked(una, query=document) == NOT_TRUSTED
    assert await asked(una, **persisted(document, query=document)) == NOT_TRUSTED  # nor are they learnt
    assert await asked(una, **persisted(document)) == NOT_FOUND
    assert await asked(una, **persisted(EMAIL, query=document)) == NOT_TRUSTED
    answer = await una.http.get("/graphql", params={"query": document})
    assert answer.json() == NOT_TRUSTED


async def test_other_documents_of_a_batch_are_refused(una: Account) -> None:
    batch = [{"query": "{ __typename }"}, persisted(EMAIL)]
    answers = (await una.http.post("/graphql", json=batch)).json()
    assert answers == [NOT_TRUSTED, {"data": {"viewer": {"email": una.email}}}]


async def test_other_documents_are_refused_on_a_socket(una: Account) -> None:
    async with una.socket() as socket:
        await socket.send({"type": "subscribe", "id": "a", "payload": persisted(EMAIL)})
        assert [(await socket.receive())["type"] for _ in range(2)] == ["next", "complete"]
        for document in ("{ __typename }", get_introspection_query(), WATCH.replace("status", "stage")):
            operation = await socket.start(document, id=una.id)
            message = await socket.receive()
            assert message == {"type": "error", "id": operation, "payload": NOT_TRUSTED["errors"]}


@pytest.mark.parametrize("accepted", ["text/event-stream", "multipart/mixed;subscriptionSpec=1.0"])
async def test_other_documents_are_refused_in_a_stream(una: Account, accepted: str) -> None:
    headers = {"accept": accepted}
    trusted = await una.http.post("/graphql", json=persisted(EMAIL), headers=headers)
    assert una.email in trusted.text
    for document in (get_introspection_query(), WATCH.replace("status", "stage")):
        answer = await una.http.post("/graphql", json={"query": document}, headers=headers)
        assert "DOCUMENT_NOT_TRUSTED" in answer.text
        assert "__schema" not in answer.text


async def test_other_documents_are_refused_with_files(una: Account) -> None:
    document = "mutation Set($file: Upload!) { uploadMedia(input: {file: $file}) { media { id } } }"
    answer = await una.post_files(document, {"file": None}, {"file": ("a.jpg", b"content")})
    assert answer.json() == NOT_TRUSTED


# ---------------------------------------------------------------- where none are trusted


async def test_ids_where_there_are_none(client: Client) -> None:
    assert await asked(client, **persisted("{ __typename }")) == NOT_SUPPORTED
    fine = await asked(client, **persisted("{ __typename }", query="{ __typename }"))
    assert fine == {"data": {"__typename": "Query"}}
    assert await asked(client, **persisted("{ __typename }")) == NOT_SUPPORTED  # nothing was learnt


# ---------------------------------------------------------------- manifests

APOLLO = {
    "format": "apollo-persisted-query-manifest",
    "version": 1,
    "operations": [{"id": "a1", "name": "Email", "type": "query", "body": EMAIL}],
}


def test_manifests_are_read(tmp_path: Path) -> None:
    apollo, relay = tmp_path / "apollo.json", tmp_path / "persisted.json"
    apollo.write_text(json.dumps(APOLLO))
    relay.write_text(json.dumps({"r1": NAME}))
    (tmp_path / "Logout.graphql").write_text(LOGOUT)
    (tmp_path / "README.md").write_text("not one of them")
    assert load(apollo, only=False) == TrustedDocuments({"a1": EMAIL})
    assert load(relay, only=True) == TrustedDocuments({"r1": NAME}, only=True)
    assert load(tmp_path, only=False).by_id == {"a1": EMAIL, "r1": NAME, sha256(LOGOUT): LOGOUT}
    assert load(None, only=False) == TrustedDocuments()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "can't be read: documents.json: Input data was truncated."),
        ("[]", "can't be read: documents.json: Expected `object`, got `array`."),
        ('{"a": 1}', "can't be read: documents.json: Expected `str`, got `int` - at `$[...]`."),
        (
            json.dumps({**APOLLO, "operations": [{"id": "a"}]}),
            "can't be read: documents.json: Object missing required field `body` - at `$.operations[0]`.",
        ),
        ("{}", "has no documents."),
    ],
    ids=["no JSON", "a list", "no texts", "no body", "empty"],
)
def test_what_is_wrong_with_a_manifest_is_said(tmp_path: Path, content: str, reason: str) -> None:
    manifest = tmp_path / "documents.json"
    manifest.write_text(content)
    with pytest.raises(SettingsError) as refused:
        load(manifest, only=True)
    assert str(refused.value) == f"HEIRLOOM_TRUSTED_DOCUMENTS: {manifest} {reason}"


def test_documents_are_needed_where_there_are_no_others() -> None:
    with pytest.raises(SettingsError) as refused:
        load(None, only=True)
    assert str(refused.value) == "HEIRLOOM_TRUSTED_DOCUMENTS must be set when HEIRLOOM_TRUSTED_ONLY is on."


def test_documents_that_the_server_would_refuse_are_told(tmp_path: Path) -> None:
    manifest = tmp_path / "documents.json"
    env = environment(tmp_path / "data", trusted_documents=manifest)

    def check() -> tuple[int, str, str]:
        ended = subprocess.run(command("check-documents"), env=env, capture_output=True, text=True, check=False)
        return ended.returncode, ended.stdout, ended.stderr

    manifest.write_text(json.dumps({"a": EMAIL, "b": NAME}))
    assert check() == (0, "Documents: 2, all fine.\n", "")
    deep = f"{{ library {{ nodes {{ {'entity { media { nodes { ' * 4}id{'} } } ' * 4}}} }} }}"
    manifest.write_text(json.dumps({"a": EMAIL, "b": "{ nothing }", "c": "{", "d": deep}))
    assert check() == (
        1,
        "b: Cannot query field 'nothing' on type 'Query'.\n"
        "c: Syntax Error: Expected Name, found <EOF>.\n"
        "d: The operation is too complex: depth 15, at most 12.\n",
        "",
    )
