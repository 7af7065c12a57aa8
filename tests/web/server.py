"""GraphiQL beside a small schema that says what reached it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, cast

import strawberry
import uvicorn
from litestar import Litestar, Request, Response
from litestar.datastructures import UploadFile
from strawberry.exceptions import ConnectionRejectionError
from strawberry.file_uploads import Upload
from strawberry.litestar import make_graphql_controller
from strawberry.scalars import JSON
from strawberry.subscriptions import GRAPHQL_TRANSPORT_WS_PROTOCOL

from app.pages import page_routes
from tests.browser import until


@strawberry.type
class Person:
    id: strawberry.ID


@strawberry.type
class Auth:
    access_token: str
    person: Person


@strawberry.type
class Query:
    @strawberry.field
    def header(self, info: strawberry.Info, name: str) -> str | None:
        value: str | None = info.context["request"].headers.get(name)
        return value


@strawberry.type
class Mutation:
    @strawberry.mutation
    def login(self, token: str, person: str) -> Auth:
        return Auth(access_token=token, person=Person(id=strawberry.ID(person)))

    @strawberry.mutation
    async def upload(self, info: strawberry.Info, files: list[Upload]) -> list[str]:
        assert info.context["request"].headers["apollo-require-preflight"] == "true"
        return [
            f"{file.filename} {hashlib.sha256(await file.read()).hexdigest()}"
            for file in cast("list[UploadFile]", files)
        ]


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def connection(self, info: strawberry.Info) -> AsyncGenerator[JSON, None]:
        yield info.context["connection_params"]
        await asyncio.Event().wait()


schema = strawberry.Schema(Query, Mutation, Subscription)
ENDPOINT = make_graphql_controller(
    schema,
    path="/graphql",
    graphql_ide=None,
    subscription_protocols=[GRAPHQL_TRANSPORT_WS_PROTOCOL],
    multipart_uploads_enabled=True,
)


def _is_expired(value: object) -> bool:
    return value == "Bearer expired"


class Endpoint(ENDPOINT):  # type: ignore[misc,valid-type]  # a class made by a function
    """Refuses an expired token as the real one does: 401 over HTTP, 4403 on the socket."""

    async def on_ws_connect(self, context: dict[str, Any]) -> None:
        if _is_expired(context["connection_params"].get("authorization")):
            raise ConnectionRejectionError


def refuse_expired(request: Request[Any, Any, Any]) -> Response[dict[str, Any]] | None:
    if _is_expired(request.headers.get("authorization")):
        return Response({"errors": [{"message": "The token has expired."}]}, status_code=401)
    return None


app = Litestar([Endpoint, *page_routes()], before_request=refuse_expired)


@contextlib.asynccontextmanager
async def serve() -> AsyncIterator[str]:
    """The address of a running server."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        running = asyncio.create_task(server.serve(sockets=[listening]))

        async def started() -> bool:
            return server.started

        await until(started)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await running
