"""What every call passes before Litestar sees it, outermost first.

    traces         a span, where they are sent somewhere
    proxies        whose word is taken for where a call comes from, and by which scheme
    calls          a request id
    access log     one line when it is over
    headers        on every answer, refusals included
    rate limits    before a byte of a body is read, and before anything is asked of the database
    open calls     how many sockets and streams a caller has; a socket too many gets no handshake
    CORS           Litestar's own; then its routes, which authenticate and authorize

The line and the headers are made of the answer, so they stand outside of what may refuse.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Final, cast

from litestar import Request, Response
from litestar.config.cors import CORSConfig
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from app import calls, file_headers
from app.access_log import logged
from app.calls import Call
from app.errors import RateLimited, Unauthenticated
from app.exposition import may_read
from app.files import FILES_PATH, for_any_origin
from app.metrics import METRICS_PATH
from app.open_calls import OpenCalls
from app.rate_limits import Limit, MemoryBuckets, caller
from app.security_headers import secured
from app.settings import Rate
from app.traced_requests import traced
from app.wiring import Services
from graphql_schema.refusals import refuse

GRAPHQL_PATH: Final = "/graphql"
# Who watches over the process must not be told that it is ill because many ask.
UNLIMITED: Final = ("/health/live", "/health/ready")
# A page of a gallery has a hundred of them; each is a signature to verify and a file to read.
CHEAP: Final = (f"{FILES_PATH}/", "/graphiql")
# A socket that says more is read more slowly: its own network makes it wait.
SOCKET_MESSAGES: Final = Rate(1000, 10)


def around(app: ASGIApp, services: Services, cors: CORSConfig | None) -> ASGIApp:
    settings = services.settings
    app = limited(for_any_origin(app), services, cors)
    app = secured(app, https=settings.public_url.startswith("https:"))
    app = identified(logged(app))
    if settings.trusted_proxies:
        proxied = ProxyHeadersMiddleware(cast(Any, app), trusted_hosts=list(settings.trusted_proxies))
        app = cast(ASGIApp, proxied)
    return traced(app, settings)


def identified(app: ASGIApp) -> ASGIApp:
    async def with_call(scope: Scope, receive: Receive, send: Send) -> None:
        client = scope.get("client")
        calls.begin(Call(calls.request_id(scope["headers"]), client[0] if client else ""))
        await app(scope, receive, send)

    return with_call


def limited(app: ASGIApp, services: Services, cors: CORSConfig | None) -> ASGIApp:
    paces_sockets = services.settings.rate_limits == "on"
    open_calls = OpenCalls(services.settings.max_open)

    async def with_limits(scope: Scope, receive: Receive, send: Send) -> None:
        with open_calls.call() as place:
            try:
                await _count(services, scope)
                if _is_socket(scope):
                    place.take(caller())
            except RateLimited as error:
                await refuse_here(error, scope, receive, send)
                return
            if _is_socket(scope):
                await app(scope, paced(receive) if paces_sockets else receive, told_why(scope, receive, send))
            else:
                await app(scope, receive, send)

    async def refuse_here(error: RateLimited, scope: Scope, receive: Receive, send: Send) -> None:
        request: Request[Any, Any, Any] = Request(cast(Any, scope), receive, send)
        answer = _refusal(request, error, cors).to_asgi_response(app=None, request=request)
        await answer(cast(Any, scope), receive, _before_the_handshake(send) if _is_socket(scope) else send)

    return with_limits


async def _count(services: Services, scope: Scope) -> None:
    """Raises RateLimited."""
    path = scope["path"]
    if path in UNLIMITED or scope.get("method") == "OPTIONS":  # a page could not make anything of a refused preflight
        return
    if path == METRICS_PATH and may_read(services.settings, _address(), scope["headers"]):
        return
    if path.startswith(CHEAP):
        await services.limits.spend(Limit.FILE, caller())
        return
    headers = dict(scope["headers"])
    who = caller(_claimed(services, headers.get(b"authorization")))
    await services.limits.spend(Limit.REQUEST, who)
    if headers.get(b"content-type", b"").startswith(b"multipart/"):
        await services.limits.check(Limit.UPLOAD, who)


def _address() -> str:
    call = calls.current()
    return call.address if call else ""


def _claimed(services: Services, authorization: bytes | None) -> str | None:
    """Who the token says it is, by its signature alone; None where it is of no use."""
    try:
        return services.tokens.claimed(authorization.decode("latin-1") if authorization else None)
    except Unauthenticated:
        return None


def _refusal(request: Request[Any, Any, Any], error: RateLimited, cors: CORSConfig | None) -> Response[Any]:
    """Readable for a page of an allowed origin, as Litestar's own answers are: it is to know how long to wait."""
    headers = {"Retry-After": str(error.retry_after)}
    path = request.scope["path"]
    origin = request.headers.get("origin")
    if path.startswith(f"{FILES_PATH}/"):
        headers |= file_headers.ALWAYS
    elif origin and cors and cors.is_origin_allowed(origin):
        headers |= {**cors.simple_headers, "Access-Control-Allow-Origin": origin, "Vary": "Origin"}
    return _answer(request, 429, error.code.value, error.message, headers)


def _answer(
    request: Request[Any, Any, Any], status: int, code: str, message: str, headers: dict[str, str]
) -> Response[Any]:
    if request.scope["path"].startswith(GRAPHQL_PATH):
        return refuse(request, status, code, message, headers)
    return Response({"error": message}, status_code=status, headers=headers)


def _is_socket(scope: Scope) -> bool:
    return scope["type"] == ScopeType.WEBSOCKET


def told_why(scope: Scope, receive: Receive, send: Send) -> Send:
    """A refused socket has an answer of ours, with all its headers, in place of the server's bare 403."""
    accepted = False

    async def send_answer(message: Message) -> None:
        nonlocal accepted
        accepted = accepted or message["type"] == "websocket.accept"
        if accepted or message["type"] != "websocket.close":
            await send(message)
            return
        request: Request[Any, Any, Any] = Request(cast(Any, scope), receive, send)
        answer = _answer(request, 403, "FORBIDDEN", "No socket is served here, or not to this page.", {})
        respond = answer.to_asgi_response(app=None, request=request)
        await respond(cast(Any, scope), receive, _before_the_handshake(send))

    return send_answer


def _before_the_handshake(send: Send) -> Send:
    """An HTTP answer to who asked for a socket (ASGI's extension of that name)."""

    async def send_prefixed(message: Message) -> None:
        await send(cast(Message, {**message, "type": f"websocket.{message['type']}"}))

    return send_prefixed


def paced(receive: Receive) -> Receive:
    bucket = MemoryBuckets(most=1)
    spend = partial(bucket.spend, Limit.REQUEST, b"", SOCKET_MESSAGES, 1, keep=True)

    async def receive_in_pace() -> Any:
        message = await receive()
        if message["type"] == "websocket.receive":
            while wait := await spend():  # noqa: ASYNC110  # a bucket tells nobody when there is room
                await asyncio.sleep(wait)  # uvloop wakes up to a millisecond early
        return message

    return receive_in_pace
