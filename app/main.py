"""The API process: what answers where."""

from __future__ import annotations

from functools import partial
from typing import Any

from litestar import Litestar, WebSocket, get
from litestar.config.cors import CORSConfig
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.response import Redirect

from app import metrics
from app.access import Viewer
from app.auth import authenticate
from app.edge import around
from app.files import file_routes
from app.health import health_routes
from app.metrics_route import metrics_routes
from app.pages import page_routes
from app.wiring import Services
from graphql_schema.context import Context
from graphql_schema.controller import create_controller
from graphql_schema.multipart import UploadLimits
from graphql_schema.schema import schema
from graphql_schema.streams import OpenStreams, protocol_of
from graphql_schema.trusted import load as load_trusted
from storage.local import LocalStorage


def create_app(services: Services) -> Litestar:
    """The application over services that are open; whoever opened them closes them after it.

    `state.streams` are to be stopped before it.
    """
    settings = services.settings
    streams = OpenStreams()
    trusted = load_trusted(settings.trusted_documents, only=settings.trusted_only == "on")

    async def viewer_of(authorization: str | None) -> Viewer | None:
        return await authenticate(services.tokens, authorization)

    def make_context(connection: ASGIConnection[Any, Any, Any, Any], viewer: Viewer | None) -> Context:
        on_socket = isinstance(connection, WebSocket)
        protocol = partial(protocol_of, connection)
        return Context(services, viewer, on_socket=on_socket, protocol=protocol, trusted=trusted)

    graphql = create_controller(
        schema,
        authenticate=viewer_of,
        make_context=make_context,
        limits=UploadLimits(
            file_bytes=settings.max_file_bytes,
            field_bytes=settings.max_field_bytes,
            files=settings.max_files,
            total_bytes=settings.max_request_bytes,
        ),
        scratch=services.scratch,
        json_bytes=settings.max_field_bytes,
        streams=streams,
        allowed_origins=settings.allowed_origins,
    )
    files = [file_routes(services.storage)] if isinstance(services.storage, LocalStorage) else []
    if counted := metrics.instruments():
        counted.names.trust(trusted.names())
    app = Litestar(
        route_handlers=[
            to_graphiql,
            graphql,
            *page_routes(),
            *health_routes(services),
            *metrics_routes(settings),
            *files,
        ],
        cors_config=_cors(settings.allowed_origins),
        openapi_config=None,
        logging_config=None,  # the process decides
        state=State({"streams": streams}),
    )
    app.asgi_handler = around(app.asgi_handler, services, app.cors_config)  # nothing comes before Litestar's own CORS
    return app


@get("/", include_in_schema=False)
async def to_graphiql() -> Redirect:
    return Redirect("/graphiql/")


def _cors(origins: tuple[str, ...]) -> CORSConfig | None:
    if not origins:
        return None
    return CORSConfig(
        allow_origins=list(origins),
        allow_methods=["GET", "POST"],
        allow_headers=[
            "Authorization",
            "Content-Type",
            "X-Request-Id",
            "Apollo-Require-Preflight",
            "GraphQL-Require-Preflight",
            "X-Apollo-Operation-Name",
            "X-Requested-With",
        ],
        expose_headers=["Retry-After", "WWW-Authenticate", "X-Request-Id"],
    )
