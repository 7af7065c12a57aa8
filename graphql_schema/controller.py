"""GraphQL over HTTP and WebSocket: Strawberry's controller, made strict.

https://graphql.github.io/graphql-over-http/draft/ for queries and mutations; for subscriptions the
`graphql-transport-ws` protocol, or an answer that is a stream (`streams`). Every refusal of this layer is
GraphQL-shaped JSON with `extensions.code`.
"""

from __future__ import annotations

from asyncio import gather, timeout
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Final

import orjson
from graphql import OperationType
from litestar import Request, Response, WebSocket, get, post, route, websocket
from litestar.exceptions import InternalServerException
from strawberry.exceptions import ConnectionRejectionError
from strawberry.http import GraphQLHTTPResponse, GraphQLRequestData
from strawberry.http.websocket_origin import is_same_origin, normalize_allowed_origins
from strawberry.litestar.controller import GraphQLController
from strawberry.subscriptions import GRAPHQL_TRANSPORT_WS_PROTOCOL
from strawberry.types import ExecutionResult
from strawberry.types.unset import UnsetType

from app import open_calls
from app.access import Viewer
from app.bodies import patient
from app.errors import RateLimited, Unauthenticated
from graphql_schema.context import Context
from graphql_schema.errors import (
    MalformedRequest,
    MethodNotAllowed,
    NotAcceptable,
    OriginRefused,
    RequestError,
    RequestTimeout,
    RequestTooLarge,
    SpoolFailed,
    UnsupportedMediaType,
    coded,
)
from graphql_schema.multipart import UploadLimits, parse
from graphql_schema.refusals import EXCEPTION_HANDLERS, GRAPHQL_RESPONSE, encode, negotiate, respond
from graphql_schema.requests import GraphQLRequest, request_data
from graphql_schema.schema import Schema
from graphql_schema.sockets import SocketAdapter, TransportHandler, socket_authorization
from graphql_schema.streams import Form, OpenStreams, StreamResponse, form_of
from storage.base import has_room

# A page of another site can send a multipart form with the reader's credentials unasked, but none of these headers:
# they make the browser ask first (a CORS preflight).
PREFLIGHT_HEADERS = (
    "authorization",
    "apollo-require-preflight",
    "x-apollo-operation-name",
    "x-requested-with",
    "graphql-require-preflight",
)
# A file of nobody's is read only so that a client which sends before it listens gets its answer.
ANONYMOUS_BYTES = 32 * 1024 * 1024
JSON_SECONDS = 60.0  # for a megabyte at most
SLOWEST = 10_000  # bytes a second of an upload: a telephone at the edge of its cell has as many
# What is answered at once.
ALLOWED: Final = {
    "GET": frozenset({OperationType.QUERY}),
    "POST": frozenset({OperationType.QUERY, OperationType.MUTATION}),
}
CONNECTION_INIT_TIMEOUT = timedelta(seconds=10)  # an honest client sends it with its first packet

AnyConnection = Request[Any, Any, Any] | WebSocket[Any, Any, Any]


class StrictController(GraphQLController[Any, None]):
    """`create_controller` fills in what is only declared here.

    One instance serves all requests: what belongs to a request lives in its GraphQLRequest and its Response.
    """

    schema: Schema
    authenticate: Callable[[str | None], Awaitable[Viewer | None]]
    make_context: Callable[[AnyConnection, Viewer | None], Context]
    limits: UploadLimits
    scratch: Path
    json_bytes: int
    streams: OpenStreams

    path = "/graphql"
    dependencies: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]  # stock ones hop through a thread each request
    include_in_schema = False
    request_class = GraphQLRequest
    request_max_body_size = None  # the limits here depend on the kind of body
    graphql_ide = None
    protocols = (GRAPHQL_TRANSPORT_WS_PROTOCOL,)
    websocket_adapter_class = SocketAdapter
    graphql_transport_ws_handler_class = TransportHandler
    connection_init_wait_timeout = CONNECTION_INIT_TIMEOUT
    max_subscriptions_per_connection = None  # the handler's own bound has a code

    @get()
    async def handle_http_get(self, request: GraphQLRequest) -> Response[Any]:
        return await self._answer(request)

    @post(status_code=200)
    async def handle_http_post(self, request: GraphQLRequest) -> Response[Any]:
        return await self._answer(request)

    @route(http_method=["HEAD", "PUT", "PATCH", "DELETE"], status_code=405)
    async def handle_other_methods(self) -> None:
        raise MethodNotAllowed("GraphQL is served by GET and POST.")

    @websocket()
    async def websocket_endpoint(self, socket: WebSocket[Any, Any, Any]) -> None:
        await self.run(socket, context=self.make_context(socket, None), root_value=None)

    async def _answer(self, request: GraphQLRequest) -> Response[Any]:
        # Before a byte of the body is read: it is not taken from somebody whose token is of no use.
        authorization = request.headers.get("authorization") or None
        viewer = await self.authenticate(authorization)
        request.keep_files = viewer is not None
        context = self.make_context(request, viewer)
        context.authorization = authorization
        try:
            if form := form_of(request):
                return await self._stream(request, form, context)
            return await self._answer_at_once(request, context)
        finally:
            if request.parsed is not None:
                await request.parsed.close()

    async def _answer_at_once(self, request: GraphQLRequest, context: Context) -> Response[Any]:
        media_type, allowed = negotiate(request), ALLOWED[request.method]
        sent = await self._read(request)
        if isinstance(sent, list):
            answers = await gather(*[self._answer_among_others(each, context, allowed) for each in sent])
            return respond(encode(answers), 200, media_type)
        answer = _answer_of(await self.schema.operation(sent, context, allowed).result())
        status = 400 if "data" not in answer and media_type == GRAPHQL_RESPONSE else 200
        return respond(encode(answer), status, media_type)

    async def _answer_among_others(
        self, sent: GraphQLRequestData, context: Context, allowed: Collection[OperationType]
    ) -> GraphQLHTTPResponse:
        """What is refused is this one alone: others may have been executed, and changed something."""
        try:
            return _answer_of(await self.schema.operation(sent, context, allowed).result())
        except (RequestError, RateLimited) as error:
            return _answer_of(ExecutionResult(None, [coded(error)]))

    async def _stream(self, request: GraphQLRequest, form: Form, context: Context) -> StreamResponse:
        if not self._is_admitted(request):
            raise OriginRefused("Pages of this origin may not open streams here.")
        if _content_type(request) == "multipart/form-data":
            raise NotAcceptable("A request with files is answered at once: accept application/json.")
        sent = await self._read(request)
        if isinstance(sent, list):
            raise NotAcceptable("A batch is answered at once: accept application/json.")
        open_calls.stays_open()
        operation = self.schema.operation(sent, context, ALLOWED[request.method] | {OperationType.SUBSCRIPTION})
        return StreamResponse(form, _encoded(operation.results()), self.streams)

    def _is_admitted(self, request: GraphQLRequest) -> bool:
        """Whether its page might open a socket: streams are given to the same."""
        origin = request.headers.get("origin")
        return (
            origin is None  # no browser
            or request.headers.get("sec-fetch-site") == "same-origin"
            or is_same_origin(origin, request.headers.get("host"))
            or self.is_websocket_origin_allowed(request, origin)  # type: ignore[arg-type]  # which it doesn't look at
        )

    # ------------------------------------------------------------ reading

    async def _read(self, request: GraphQLRequest) -> GraphQLRequestData | list[GraphQLRequestData]:
        if request.method == "GET":
            return request_data(self.parse_query_params(request.query_params))
        data = await self._read_body(request)
        if not isinstance(data, list):
            return request_data(data)
        self._validate_batch_request(data, protocol="http")
        if not data:
            raise MalformedRequest("A batch holds at least one operation.")
        return [request_data(item) for item in data]

    async def _read_body(self, request: GraphQLRequest) -> Any:
        try:
            match _content_type(request):
                case "application/json":
                    return await self._read_json(request)
                case "multipart/form-data":
                    return await self._read_multipart(request, request.headers["content-type"])
        except InternalServerException as error:  # Litestar's word for a client that hangs up
            raise MalformedRequest("The connection ended before the body did.") from error
        raise UnsupportedMediaType("A GraphQL request has the Content-Type application/json or multipart/form-data.")

    async def _read_json(self, request: GraphQLRequest) -> Any:
        if (request.content_length or 0) > self.json_bytes:
            raise self._too_large
        body = bytearray()
        try:
            async with timeout(JSON_SECONDS):  # one for all of it: it takes longer to set than most bodies to come
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > self.json_bytes:
                        raise self._too_large
        except TimeoutError as error:
            raise RequestTimeout(f"The body took longer than {JSON_SECONDS:.0f} seconds.") from error
        return self.parse_json(body)

    async def _read_multipart(self, request: GraphQLRequest, content_type: str) -> Any:
        if not any(name in request.headers for name in PREFLIGHT_HEADERS):
            raise MalformedRequest(
                "A multipart request needs a header that a form of another site can't send: "
                "add `apollo-require-preflight: true`."
            )
        if request.keep_files and not has_room(self.scratch, request.content_length or 0):
            raise SpoolFailed("The server has no room for files at the moment.")
        limits = self.limits if request.keep_files else self._anonymous_limits
        open_calls.stays_open()
        try:
            request.parsed = await parse(
                patient(request.stream(), RequestTimeout, whole=_seconds_for(limits, request.content_length)),
                content_type,
                limits=limits,
                scratch=self.scratch,
                keep=request.keep_files,
                content_length=request.content_length,
            )
        except RequestTooLarge as error:
            if request.keep_files:
                raise
            raise Unauthenticated("Sign in first.") from error
        return request.parsed.operations

    def parse_json(self, data: str | bytes | bytearray) -> Any:
        try:
            return orjson.loads(data)  # refuses NaN, invalid UTF-8, and more than 1024 levels
        except orjson.JSONDecodeError as error:
            raise MalformedRequest(f"This is not JSON: {error.msg}.") from error

    def decode_json(self, data: str | bytes) -> object:
        return orjson.loads(data)  # of sockets; its error is a json.JSONDecodeError, which Strawberry expects

    @property
    def _too_large(self) -> RequestTooLarge:
        return RequestTooLarge(f"A JSON request is at most {self.json_bytes} bytes large.")

    @property
    def _anonymous_limits(self) -> UploadLimits:
        return replace(self.limits, total_bytes=min(self.limits.total_bytes, ANONYMOUS_BYTES))

    # ------------------------------------------------------------ sockets

    def encode_json(self, data: object) -> bytes:
        return encode(data)

    async def on_ws_connect(self, context: Context) -> UnsetType | dict[str, object] | None:
        context.authorization = socket_authorization(context.connection_params)
        context.connection_params = {}  # nothing else of it is needed, for as long as the socket lives
        if context.authorization is not None:
            try:
                await self.authenticate(context.authorization)
            except Unauthenticated as error:
                raise ConnectionRejectionError from error
            open_calls.stays_open()
        return await super().on_ws_connect(context)


def _seconds_for(limits: UploadLimits, announced: int | None) -> float:
    return JSON_SECONDS + min(limits.total_bytes, announced or limits.total_bytes) / SLOWEST


def create_controller(
    schema: Schema,
    *,
    authenticate: Callable[[str | None], Awaitable[Viewer | None]],
    make_context: Callable[[AnyConnection, Viewer | None], Context],
    limits: UploadLimits,
    scratch: Path,
    json_bytes: int,
    streams: OpenStreams,
    allowed_origins: Sequence[str] = (),
) -> type[GraphQLController[Any, None]]:
    """The controller of `/graphql`.

    `authenticate` takes the value of `Authorization` and raises Unauthenticated for one that is of no use: answered
    with 401, on a socket with 4403; KeysUnavailable is answered with 503, on a socket with 1013. `make_context` is
    called for each request with its viewer, and for each socket with None, before its token is known. Files are spooled
    into `scratch` only for a viewer. A JSON body may have `json_bytes`. `streams` are those that have to end before the
    process can stop. `allowed_origins` are the other sites that may open a socket or a stream.
    """
    return type(
        "HeirloomController",
        (StrictController,),
        {
            "schema": schema,
            "authenticate": staticmethod(authenticate),
            "make_context": staticmethod(make_context),
            "limits": limits,
            "scratch": scratch,
            "json_bytes": json_bytes,
            "streams": streams,
            "allowed_origins": normalize_allowed_origins(allowed_origins),
            "exception_handlers": EXCEPTION_HANDLERS,
        },
    )


def _content_type(request: GraphQLRequest) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _encoded(results: AsyncGenerator[ExecutionResult, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(results):
        async for result in results:
            yield encode(_answer_of(result))


def _answer_of(result: ExecutionResult) -> GraphQLHTTPResponse:
    answer: GraphQLHTTPResponse = {"data": result.data}
    if result.errors:
        answer["errors"] = [error.formatted for error in result.errors]
        if result.data is None and not any(error.path for error in result.errors):
            # Nothing was resolved: GraphQL, 7.1, says that there must be no `data` then. (A null that has reached the
            # root has a path.)
            del answer["data"]
    if result.extensions:
        answer["extensions"] = result.extensions
    return answer
