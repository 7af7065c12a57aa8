"""What tests do through the door: GraphQL over HTTP and sockets, as any client does it."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, Self

import asyncpg
import httpx
import websockets
from argon2 import PasswordHasher

from app.auth import Tokens
from app.identifiers import uuid7

WAIT_SECONDS = 30.0
PASSWORD = "correct horse battery staple"

MEDIA = """
    id publicId kind status failure { code message } filename contentType sizeBytes width height sha256
    title description altText tags takenAt location { latitude longitude } exif sortOrder isPrimary isPublic
    entity { id } slot owner { id } url urlExpiresAt createdAt updatedAt deletedAt
    variants { name contentType width height sizeBytes url }
"""
ERRORS = "errors { code message path }"
SESSION = f"""
    id state method uploadUrl headers {{ name value }} uploadId partSize totalParts expiresAt media {{ {MEDIA} }}
    parts {{ partNumber url headers {{ name value }} sizeBytes }} uploadedParts {{ partNumber etag sizeBytes }}
"""
CREATE_SESSION = f"""
    mutation Create($input: CreateUploadSessionInput!) {{
        createUploadSession(input: $input) {{ session {{ {SESSION} }} duplicateOf {{ id }} {ERRORS} }}
    }}
"""
FIND_SESSION = f"query Find($id: ID!) {{ uploadSession(id: $id) {{ {SESSION} }} }}"
COMPLETE = f"""
    mutation Complete($input: CompleteUploadInput!) {{
        completeUpload(input: $input) {{ media {{ {MEDIA} }} duplicateOf {{ id }} {ERRORS} }}
    }}
"""
ABORT = f"mutation Abort($id: ID!) {{ abortUpload(sessionId: $id) {{ deletedId {ERRORS} }} }}"
UPLOAD = f"""
    mutation Upload($input: UploadMediaInput!) {{
        uploadMedia(input: $input) {{ media {{ {MEDIA} }} duplicateOf {{ id }} {ERRORS} }}
    }}
"""
UPLOAD_BATCH = f"""
    mutation UploadBatch($input: UploadMediaBatchInput!) {{
        uploadMediaBatch(input: $input) {{ results {{ index id media {{ {MEDIA} }} {ERRORS} }} {ERRORS} }}
    }}
"""
WATCH = """
    subscription Watch($id: ID!) {
        mediaProcessing(mediaId: $id) { status stage percent failure { code message } media { id status } }
    }
"""

Json = dict[str, Any]


class Client:
    """GraphQL as somebody, or nobody."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url
        self.token = token
        self.http = httpx.AsyncClient(base_url=url, timeout=WAIT_SECONDS, headers=self._headers())

    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"} if self.token else {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def post(self, query: str, **variables: Any) -> Json:
        """The whole answer, errors included."""
        response = await self.http.post("/graphql", json={"query": query, "variables": variables})
        answer: Json = response.json()
        return answer

    async def ask(self, query: str, **variables: Any) -> Any:
        """The data of an answer that has no errors; of its one root field, if there is but one."""
        answer = await self.post(query, **variables)
        assert "errors" not in answer, answer["errors"]
        return _only(answer["data"])

    async def post_files(
        self, query: str, variables: Json, files: Mapping[str, tuple[str, bytes | Path]]
    ) -> httpx.Response:
        """A multipart request; `files` by their paths into the variables, such as `input.file`."""
        operations = json.dumps({"query": query, "variables": variables})
        places = {str(index): [f"variables.{path}"] for index, path in enumerate(files)}
        parts = {
            str(index): (name, content.read_bytes() if isinstance(content, Path) else content)
            for index, (name, content) in enumerate(files.values())
        }
        return await self.http.post(
            "/graphql",
            data={"operations": operations, "map": json.dumps(places)},
            files=parts or {"": b""},
            headers={"apollo-require-preflight": "true"},
        )

    async def send_files(self, query: str, variables: Json, files: Mapping[str, tuple[str, bytes | Path]]) -> Any:
        answer = (await self.post_files(query, variables, files)).json()
        assert "errors" not in answer, answer["errors"]
        return _only(answer["data"])

    async def upload(self, content: bytes | Path, filename: str = "photo.jpg", **fields: Any) -> Json:
        """The payload of `uploadMedia`."""
        variables = {"input": {"file": None, **fields}}
        payload: Json = await self.send_files(UPLOAD, variables, {"input.file": (filename, content)})
        return payload

    async def uploaded(self, content: bytes | Path, filename: str = "photo.jpg", **fields: Any) -> Json:
        """The media of an upload that goes well."""
        payload = await self.upload(content, filename, **fields)
        assert payload["errors"] == []
        media: Json = payload["media"]
        return media

    async def upload_batch(self, files: Sequence[tuple[str, bytes | Path]], **fields: Any) -> Json:
        variables = {"input": {"files": [None] * len(files), **fields}}
        places = {f"input.files.{index}": file for index, file in enumerate(files)}
        payload: Json = await self.send_files(UPLOAD_BATCH, variables, places)
        return payload

    async def begin(self, size: int, filename: str = "photo.jpg", **fields: Any) -> Json:
        """The payload of `createUploadSession`."""
        given = {"filename": filename, "contentType": "image/jpeg", "sizeBytes": size, **fields}
        payload: Json = await self.ask(CREATE_SESSION, input=given)
        return payload

    async def begun(self, size: int, filename: str = "photo.jpg", **fields: Any) -> Json:
        """The session of a beginning that goes well."""
        payload = await self.begin(size, filename, **fields)
        assert (payload["duplicateOf"], payload["errors"]) == (None, [])
        session: Json = payload["session"]
        return session

    async def found(self, session_id: str) -> Json:
        session: Json = await self.ask(FIND_SESSION, id=session_id)
        return session

    async def complete(self, session_id: str, **fields: Any) -> Json:
        payload: Json = await self.ask(COMPLETE, input={"sessionId": session_id, **fields})
        return payload

    async def completed(self, session_id: str, **fields: Any) -> Json:
        """The media of a completion that goes well."""
        payload = await self.complete(session_id, **fields)
        assert (payload["duplicateOf"], payload["errors"]) == (None, [])
        media: Json = payload["media"]
        return media

    async def abort(self, session_id: str) -> Json:
        payload: Json = await self.ask(ABORT, id=session_id)
        return payload

    async def sent(self, content: bytes, filename: str = "photo.jpg", **fields: Any) -> Json:
        """The media of a direct upload, just completed."""
        session = await self.begun(len(content), filename, **fields)
        await deliver(session, content)
        return await self.completed(session["id"])

    @asynccontextmanager
    async def socket(self, payload: Json | None = None) -> AsyncIterator[Socket]:
        """A graphql-transport-ws socket, acknowledged; signed in as this client unless another payload is given."""
        if payload is None:
            payload = {"authorization": f"Bearer {self.token}"} if self.token else {}
        address = f"{self.url.replace('http', 'ws', 1)}/graphql"
        subprotocol = websockets.Subprotocol("graphql-transport-ws")
        async with websockets.connect(address, subprotocols=[subprotocol]) as connection:
            socket = Socket(connection)
            await socket.send({"type": "connection_init", "payload": payload})
            assert await socket.receive() == {"type": "connection_ack"}
            yield socket

    async def watch(self, media_id: str) -> list[Json]:
        """All updates of `mediaProcessing`, until it ends by itself."""
        async with self.socket() as socket:
            return [update["mediaProcessing"] async for update in socket.subscribe(WATCH, id=media_id)]

    async def settled(self, media_id: str) -> Json:
        """The media once it is READY or FAILED."""
        last = (await self.watch(media_id))[-1]
        assert last["status"] in {"READY", "FAILED"}
        media: Json = await self.ask(f"query($id: ID!) {{ media(id: $id) {{ {MEDIA} }} }}", id=media_id)
        return media


class Account(Client):
    """Somebody who is signed in."""

    def __init__(self, url: str, signed_in: Json, email: str) -> None:
        super().__init__(url, signed_in["accessToken"])
        self.email = email
        self.id: str = signed_in["user"]["id"]
        self.refresh_token: str = signed_in["refreshToken"]

    async def person(self, name: str = "Grace Hopper", **fields: Any) -> Json:
        payload = await self.ask(
            "mutation($input: CreatePersonInput!) { createPerson(input: $input) "
            "{ person { id publicId name } errors { code } } }",
            input={"name": name, **fields},
        )
        assert payload["errors"] == []
        person: Json = payload["person"]
        return person

    async def profile(self, person_id: str, **fields: Any) -> Json:
        payload = await self.ask(
            "mutation($input: CreateProfileInput!) { createProfile(input: $input) "
            "{ profile { id publicId name } errors { code } } }",
            input={"personId": person_id, **fields},
        )
        assert payload["errors"] == []
        profile: Json = payload["profile"]
        return profile


class Socket:
    """One graphql-transport-ws connection."""

    def __init__(self, connection: websockets.ClientConnection) -> None:
        self.connection = connection
        self._ids = 0

    async def send(self, message: Json) -> None:
        await self.connection.send(json.dumps(message))

    async def receive(self) -> Json:
        async with asyncio.timeout(WAIT_SECONDS):
            message: Json = json.loads(await self.connection.recv())
        return message

    async def start(self, query: str, **variables: Any) -> str:
        self._ids += 1
        await self.send(
            {"type": "subscribe", "id": str(self._ids), "payload": {"query": query, "variables": variables}}
        )
        return str(self._ids)

    async def subscribe(self, query: str, **variables: Any) -> AsyncIterator[Any]:
        """The data of each result, until the server completes; the only operation on this socket at a time."""
        operation = await self.start(query, **variables)
        while (message := await self.receive())["type"] != "complete":
            assert message["id"] == operation
            assert message["type"] == "next", message
            assert "errors" not in message["payload"], message
            yield message["payload"]["data"]


@asynccontextmanager
async def register(url: str, name: str) -> AsyncIterator[Account]:
    """A new account, signed in."""
    email = f"{name.lower()}-{secrets.token_hex(6)}@example.org"
    async with Client(url) as nobody:
        signed_in = await nobody.ask(
            "mutation($input: RegisterInput!) { register(input: $input) "
            "{ accessToken refreshToken expiresAt user { id displayName role } errors { code message path } } }",
            input={"email": email, "password": PASSWORD, "displayName": name},
        )
    assert signed_in["errors"] == []
    async with Account(url, signed_in, email) as account:
        yield account


async def put(url: str, headers: Sequence[Json], content: bytes) -> httpx.Response:
    """A PUT straight into the storage, which is told nothing but what the session says."""
    async with httpx.AsyncClient(timeout=WAIT_SECONDS) as anybody:
        return await anybody.put(url, content=content, headers=[(each["name"], each["value"]) for each in headers])


async def deliver(session: Json, content: bytes) -> None:
    """All that the session asks for, parts all at once."""
    if session["method"] == "SINGLE":
        answers = [await put(session["uploadUrl"], session["headers"], content)]
    else:
        answers = await asyncio.gather(*(put_part(session, part, content) for part in session["parts"]))
    assert [answer.status_code for answer in answers] == [200] * len(answers), [answer.text for answer in answers]


async def put_part(session: Json, part: Json, content: bytes) -> httpx.Response:
    """This part of the whole content."""
    start = (part["partNumber"] - 1) * session["partSize"]
    return await put(part["url"], part["headers"], content[start : start + part["sizeBytes"]])


class Deployment(Protocol):
    """A server of ours, with the variables that it was started with."""

    @property
    def url(self) -> str: ...
    @property
    def environment(self) -> Mapping[str, str]: ...


# As cheap as Argon2 can be: to sign in with it costs nothing either.
PASSWORD_HASH = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)


@asynccontextmanager
async def admitted(server: Deployment, name: str) -> AsyncIterator[Account]:
    """An account as `register` makes it, without what the hash of its password takes: a third of a second of a core."""
    user, session, email = uuid7(), uuid7(), f"{name.lower()}-{secrets.token_hex(6)}@example.org"
    now = datetime.now(UTC)
    until = now + timedelta(days=30)
    connection = await asyncpg.connect(server.environment["HEIRLOOM_DATABASE_URL"])
    try:
        await connection.execute(
            "INSERT INTO user_account (id, email, password_hash, display_name, role, created_at)"
            " VALUES ($1, $2, $3, $4, 'USER', now())",
            *(user, email, PASSWORD_HASH, name),
        )
        await connection.execute(
            'INSERT INTO session (id, "user", generation, created_at, expires_at) VALUES ($1, $2, 0, now(), $3)',
            *(session, user, until),
        )
    finally:
        await connection.close()
    tokens = Tokens(server.environment["HEIRLOOM_SECRET_KEY"], timedelta(minutes=15))
    signed_in = {
        "accessToken": tokens.access(user, session, now)[0],
        "refreshToken": tokens.refresh(session, 0, until),
        "user": {"id": str(user), "displayName": name, "role": "USER"},
    }
    async with Account(server.url, signed_in, email) as account:
        yield account


def _only(data: Json) -> Any:
    return next(iter(data.values())) if len(data) == 1 else data
