"""GraphQL over HTTP and WebSocket: Strawberry's controller, made strict.

https://graphql.github.io/graphql-over-http/draft/ for queries and mutations, the `graphql-transport-ws` protocol for
subscriptions. Every refusal of this layer is GraphQL-shaped JSON with `extensions.code`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import orjson
from cross_web import HTTPException as StrawberryHTTPException
from graphql import GraphQLError
from litestar import Request, Response, WebSocket, get, post, route, websocket
from litestar.exceptions import HTTPException, InternalServerException
from strawberry.exceptions import ConnectionRejectionError, MissingQueryError
from strawberry.http import GraphQLHTTPResponse, GraphQLRequestData
from strawberry.http.websocket_origin import normalize_allowed_origins
from strawberry.litestar.controller import GraphQLController
from strawberry.schema.base import BaseSchema
from strawberry.schema.exceptions import CannotGetOperationTypeError, InvalidOperationTypeError
from strawberry.subscriptions import GRAPHQL_TRANSPORT_WS_PROTOCOL
from strawberry.subscriptions.protocols.graphql_transport_ws.handlers import BaseGraphQLTransportWSHandler
from strawberry.types import ExecutionResult
from strawberry.types.execution import PreExecutionError
from strawberry.types.graphql import OperationType
from strawberry.types.unset import UnsetType

from app.errors import Unauthenticated
from graphql_schema.errors import MASKED, coded, unexpected
from graphql_schema.multipart import (
    MalformedRequest,
    Parsed,
    RequestError,
    RequestTooLarge,
    UploadLimits,
    parse,
)

logger = logging.getLogger(__name__)

JSON = "application/json"
GRAPHQL_RESPONSE = "application/graphql-response+json"
# A page of another site can send a multipart form with the reader's credentials unasked, but none of these headers:
# they make the browser ask first (a CORS preflight).
PREFLIGHT_HEADERS = (
    "authorization",
    "apollo-require-preflight",
    "x-apollo-operation-name",
    "x-requested-with",
    "graphql-require-preflight",
)
CONNECTION_INIT_TIMEOUT = timedelta(seconds=10)  # an honest client sends it with its first packet
CODES = {400: "BAD_REQUEST", 404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED", 413: "PAYLOAD_TOO_LARGE"}

Viewer = TypeVar("Viewer")
AnyConnection = Request[Any, Any, Any] | WebSocket[Any, Any, Any]


class UnsupportedMediaType(RequestError):
    status = 415
    code = "UNSUPPORTED_MEDIA_TYPE"


class MutationNeedsPost(RequestError):
    status = 405
    code = "METHOD_NOT_ALLOWED"
    headers: ClassVar[dict[str, str]] = {"Allow": "POST"}


class MethodNotAllowed(RequestError):
    status = 405
    code = "METHOD_NOT_ALLOWED"
    headers: ClassVar[dict[str, str]] = {"Allow": "GET, POST"}


class EdgeContext(Protocol):
    """What the controller asks of a context.

    On a socket the context lives as long as the socket, and a session may end before: so it keeps the means to know
    the viewer, `authorization`, which is to be authenticated anew for each operation.
    """

    authorization: str | None
    connection_params: Any


class GraphQLRequest(Request[Any, Any, Any]):
    """A request that owns the files spooled from its body."""

    keep_files = False
    parsed: Parsed | None = None


class TransportHandler(BaseGraphQLTransportWSHandler[Any, None]):
    """Strawberry's own trusts a message's shape, and fails with a TypeError: here the socket is closed with 4400.

    And when a hook of an extension raises, it ends the operation as if all were well: here that is an error.
    """

    async def handle_message(self, message: Any) -> None:
        if _is_message(message):
            await super().handle_message(message)
        else:
            await self.handle_invalid_message("Failed to parse message")

    async def _send_result_stream(self, operation: Any, result_source: AsyncGenerator[Any, None]) -> None:
        async with aclosing(_failures_as_results(result_source)) as results:
            await super()._send_result_stream(operation, results)


class StrictController(GraphQLController[Any, None]):
    """`create_controller` fills in what is only declared here.

    One instance serves all requests: what belongs to a request lives in its GraphQLRequest and its Response.
    """

    authenticate: Callable[[str | None], Awaitable[Any]]
    make_context: Callable[[AnyConnection, Any], EdgeContext]
    limits: UploadLimits
    scratch: Path
    json_bytes: int

    path = "/graphql"
    dependencies: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]  # stock ones hop through a thread each request
    include_in_schema = False
    request_class = GraphQLRequest
    request_max_body_size = None  # the limits here depend on the kind of body
    graphql_ide = None
    protocols = (GRAPHQL_TRANSPORT_WS_PROTOCOL,)
    graphql_transport_ws_handler_class = TransportHandler
    connection_init_wait_timeout = CONNECTION_INIT_TIMEOUT

    @get()
    async def handle_http_get(self, request: GraphQLRequest) -> Response[bytes]:
        return await self._answer(request)

    @post(status_code=200)
    async def handle_http_post(self, request: GraphQLRequest) -> Response[bytes]:
        return await self._answer(request)

    @route(http_method=["PUT", "PATCH", "DELETE"], status_code=405)
    async def handle_other_methods(self) -> None:
        raise MethodNotAllowed("GraphQL is served by GET and POST.")

    @websocket()
    async def websocket_endpoint(self, socket: WebSocket[Any, Any, Any]) -> None:
        await self.run(socket, context=self.make_context(socket, None), root_value=None)

    async def _answer(self, request: GraphQLRequest) -> Response[bytes]:
        # Before a byte of the body is read: it is not taken from somebody whose token is of no use.
        authorization = request.headers.get("authorization") or None
        viewer = await self.authenticate(authorization)
        request.keep_files = viewer is not None
        context = self.make_context(request, viewer)
        context.authorization = authorization
        try:
            response: Response[bytes] = await self.run(request, context=context, root_value=None)
            return response
        finally:
            if request.parsed is not None:
                await request.parsed.close()

    # ------------------------------------------------------------ reading

    def should_render_graphql_ide(self, request: Any) -> bool:  # noqa: ARG002  # Strawberry's signature
        return False

    async def parse_http_body(self, request: Any) -> GraphQLRequestData | list[GraphQLRequestData]:
        if request.method == "GET":
            return _request_data(self.parse_query_params(request.query_params))
        data = await self._read_body(request.request)
        if not isinstance(data, list):
            return _request_data(data)
        self._validate_batch_request(data, protocol="http")
        if not data:
            raise MalformedRequest("A batch holds at least one operation.")
        return [_request_data(item) for item in data]

    async def _read_body(self, request: GraphQLRequest) -> Any:
        content_type = request.headers.get("content-type", "")
        try:
            match content_type.partition(";")[0].strip().lower():
                case "application/json":
                    return await self._read_json(request)
                case "multipart/form-data":
                    return await self._read_multipart(request, content_type)
        except InternalServerException as error:  # Litestar's word for a client that hangs up
            raise MalformedRequest("The connection ended before the body did.") from error
        raise UnsupportedMediaType("A GraphQL request has the Content-Type application/json or multipart/form-data.")

    async def _read_json(self, request: GraphQLRequest) -> Any:
        too_large = RequestTooLarge(f"A JSON request is at most {self.json_bytes} bytes large.")
        if (request.content_length or 0) > self.json_bytes:
            raise too_large
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self.json_bytes:
                raise too_large
        return self.parse_json(bytes(body))

    async def _read_multipart(self, request: GraphQLRequest, content_type: str) -> Any:
        if not any(name in request.headers for name in PREFLIGHT_HEADERS):
            raise MalformedRequest(
                "A multipart request needs a header that a form of another site can't send: "
                "add `apollo-require-preflight: true`."
            )
        request.parsed = await parse(
            request.stream(),
            content_type,
            limits=self.limits,
            scratch=self.scratch,
            keep=request.keep_files,
            content_length=request.content_length,
        )
        return request.parsed.operations

    def parse_json(self, data: str | bytes) -> Any:
        try:
            return orjson.loads(data)  # refuses NaN, invalid UTF-8, and more than 1024 levels
        except orjson.JSONDecodeError as error:
            raise MalformedRequest(f"This is not JSON: {error.msg}.") from error

    def decode_json(self, data: str | bytes) -> object:
        return orjson.loads(data)  # of sockets; its error is a json.JSONDecodeError, which Strawberry expects

    # ------------------------------------------------------------ executing and answering

    async def execute_single(  # noqa: PLR0917  # Strawberry's signature
        self,
        request: Any,  # noqa: ARG002
        request_adapter: Any,
        sub_response: Any,  # noqa: ARG002
        context: Any,
        root_value: Any,
        request_data: GraphQLRequestData,
    ) -> ExecutionResult:
        allowed = (
            {OperationType.QUERY} if request_adapter.method == "GET" else {OperationType.QUERY, OperationType.MUTATION}
        )
        try:
            return await self.schema.execute(
                request_data.query,
                root_value=root_value,
                variable_values=request_data.variables,
                context_value=context,
                operation_name=request_data.operation_name,
                allowed_operation_types=allowed,
                operation_extensions=request_data.extensions,
            )
        except InvalidOperationTypeError as error:
            if error.operation_type is OperationType.MUTATION:
                raise MutationNeedsPost("A mutation is sent by POST.") from error
            raise MalformedRequest(
                "A subscription is served over a WebSocket with the subprotocol graphql-transport-ws."
            ) from error
        except CannotGetOperationTypeError as error:
            raise MalformedRequest(error.as_http_error_reason()) from error
        except MissingQueryError as error:
            raise MalformedRequest("The request has no `query`.") from error

    async def process_result(self, request: Any, result: ExecutionResult) -> GraphQLHTTPResponse:
        # What a hook of an extension raises has passed by those that would have masked it.
        result.errors = [coded(error) for error in result.errors or ()] or None
        response = await super().process_result(request, result)
        if _failed_before_execution(result):
            # GraphQL, 7.1: `data` must not be present then. It is also how create_response knows.
            del response["data"]
        return response

    async def get_sub_response(self, request: Any) -> Response[Any]:
        # Strawberry's keeps the response on `self`, where requests overwrite each other's.
        return Response(None, media_type=_negotiate(request))

    def create_response(
        self, response_data: GraphQLHTTPResponse | list[GraphQLHTTPResponse], sub_response: Response[Any]
    ) -> Response[bytes]:
        refused = isinstance(response_data, dict) and "data" not in response_data
        status = 400 if refused and sub_response.media_type == GRAPHQL_RESPONSE else 200
        return _respond(self.encode_json(response_data), status, sub_response.media_type)

    def encode_json(self, data: object) -> bytes:
        return _encode(data)

    # ------------------------------------------------------------ sockets

    async def on_ws_connect(self, context: EdgeContext) -> UnsetType | dict[str, object] | None:
        context.authorization = _socket_authorization(context.connection_params)
        if context.authorization is not None:
            try:
                await self.authenticate(context.authorization)
            except Unauthenticated as error:
                raise ConnectionRejectionError from error
        return await super().on_ws_connect(context)


def create_controller(
    schema: BaseSchema,
    *,
    authenticate: Callable[[str | None], Awaitable[Viewer | None]],
    make_context: Callable[[AnyConnection, Viewer | None], EdgeContext],
    limits: UploadLimits,
    scratch: Path,
    json_bytes: int,
    allowed_origins: Sequence[str] = (),
) -> type[GraphQLController[Any, None]]:
    """The controller of `/graphql`.

    `authenticate` takes the value of `Authorization` and raises Unauthenticated for one that is of no use: answered
    with 401, on a socket with 4403. `make_context` is called for each request with its viewer, and for each socket
    with None, before its token is known. Files are spooled into `scratch` only for a viewer. A JSON body may have
    `json_bytes`. `allowed_origins` are the other sites that may open a socket.
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
            "allowed_origins": normalize_allowed_origins(allowed_origins),
            "exception_handlers": {
                RequestError: _on_request_error,
                Unauthenticated: _on_unauthenticated,
                StrawberryHTTPException: _on_strawberry_error,
                HTTPException: _on_litestar_error,
                Exception: _on_unexpected,
            },
        },
    )


def _request_data(item: Any) -> GraphQLRequestData:
    if not isinstance(item, dict):
        raise MalformedRequest("A GraphQL request is a JSON object.")
    for name, kind, words in (
        ("query", str, "a string"),
        ("operationName", str, "a string"),
        ("variables", dict, "an object"),
        ("extensions", dict, "an object"),
    ):
        if not isinstance(item.get(name), kind | None):
            raise MalformedRequest(f"`{name}` must be {words}, or null.")
    return GraphQLRequestData(
        query=item.get("query"),
        variables=item.get("variables"),
        operation_name=item.get("operationName"),
        extensions=item.get("extensions"),
    )


def _is_message(message: Any) -> bool:
    """Whether what Strawberry's handler reads from a graphql-transport-ws message is of the type that it takes for
    granted; what is missing it finds itself."""
    if not isinstance(message, dict):
        return False
    if message.get("type") in ("subscribe", "complete") and not isinstance(message.get("id"), str):
        return False
    if message.get("type") != "subscribe":
        return True
    try:
        return _request_data(message.get("payload")).query is not None
    except MalformedRequest:
        return False


async def _failures_as_results(results: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
    try:
        async for result in results:
            yield result
    except Exception as error:
        yield PreExecutionError(None, [coded(GraphQLError(str(error), original_error=error))])


def _socket_authorization(connection_params: dict[str, Any]) -> str | None:
    """The token of `connection_init`, its key in any case; empty or null is how some clients say "not signed in"."""
    values = [value for key, value in connection_params.items() if key.lower() == "authorization"]
    if len(values) > 1 or not all(isinstance(value, str | None) for value in values):
        raise ConnectionRejectionError
    return values[0] or None if values else None


def _failed_before_execution(result: ExecutionResult) -> bool:
    """No data, and no error has a path: nothing was resolved yet. (A null that reached the root has one.)"""
    return result.data is None and not any(error.path for error in result.errors or ())


def _negotiate(request: Request[Any, Any, Any]) -> str:
    try:
        return request.accept.best_match([JSON, GRAPHQL_RESPONSE], default=JSON)
    except OverflowError:  # Litestar turns the q of `Accept` into a whole number, and `q=inf` is a float to it
        return JSON


def _encode(data: object) -> bytes:
    try:
        return orjson.dumps(data)
    except orjson.JSONEncodeError:  # a JSON scalar may hold keys that are no strings; the option costs speed
        return orjson.dumps(data, option=orjson.OPT_NON_STR_KEYS)


def _respond(
    body: bytes, status: int, media_type: str | None, headers: dict[str, str] | None = None
) -> Response[bytes]:
    return Response(
        body,
        status_code=status,
        media_type=f"{media_type}; charset=utf-8",
        headers={"Vary": "Accept", **(headers or {})},
    )


def _refuse(
    request: Request[Any, Any, Any],
    status: int,
    code: str,
    message: str,
    headers: dict[str, str] | None = None,
    **extensions: Any,
) -> Response[bytes]:
    body = {"errors": [{"message": message, "extensions": {"code": code, **extensions}}]}
    return _respond(_encode(body), status, _negotiate(request), headers)


def _on_request_error(request: Request[Any, Any, Any], error: RequestError) -> Response[bytes]:
    return _refuse(request, error.status, error.code, str(error), error.headers)


def _on_unauthenticated(request: Request[Any, Any, Any], error: Unauthenticated) -> Response[bytes]:
    return _refuse(request, 401, error.code, error.message, {"WWW-Authenticate": "Bearer"})  # RFC 9110, 11.6.1


def _on_strawberry_error(request: Request[Any, Any, Any], error: StrawberryHTTPException) -> Response[bytes]:
    return _refuse(request, error.status_code, CODES.get(error.status_code, "BAD_REQUEST"), f"{error.reason}.")


def _on_litestar_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    if error.status_code >= 500:
        return _on_unexpected(request, error)
    return _refuse(request, error.status_code, CODES.get(error.status_code, "BAD_REQUEST"), error.detail)


def _on_unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    return _refuse(request, 500, message=MASKED, **unexpected(error, "the GraphQL edge"))
