"""The API process: what answers where."""

from __future__ import annotations

from typing import Any

from litestar import Litestar, WebSocket, get
from litestar.config.cors import CORSConfig
from litestar.connection import ASGIConnection
from litestar.response import Redirect

from app.access import Viewer
from app.auth import authenticate
from app.files import file_routes, for_any_origin
from app.health import health_routes
from app.pages import page_routes
from app.wiring import Services
from graphql_schema.context import Context
from graphql_schema.controller import create_controller
from graphql_schema.multipart import UploadLimits
from graphql_schema.schema import schema
from storage.local import LocalStorage


def create_app(services: Services) -> Litestar:
    """The application over services that are open; whoever opened them closes them after it."""
    settings = services.settings

    async def viewer_of(authorization: str | None) -> Viewer | None:
        return await authenticate(services.tokens, authorization)

    def make_context(connection: ASGIConnection[Any, Any, Any, Any], viewer: Viewer | None) -> Context:
        return Context(services, viewer, on_socket=isinstance(connection, WebSocket))

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
        allowed_origins=settings.allowed_origins,
    )
    files = [file_routes(services.storage)] if isinstance(services.storage, LocalStorage) else []
    app = Litestar(
        route_handlers=[to_graphiql, graphql, *page_routes(), *health_routes(services), *files],
        cors_config=_cors(settings.allowed_origins),
        openapi_config=None,
        logging_config=None,  # the process decides
    )
    app.asgi_handler = for_any_origin(app.asgi_handler)  # nothing else comes before Litestar's own CORS
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
        allow_headers=["Authorization", "Content-Type", "Apollo-Require-Preflight", "X-Requested-With"],
    )
