"""Whether the process lives, whether it can do its work, and whether the storage agrees with the database."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any, Final

from litestar import Request, Response, get, post
from litestar.params import FromQuery
from litestar.types import ControllerRouterHandler

from app import agreement
from app.access import signed_in
from app.auth import authenticate
from app.db import BUSY_ERRORS
from app.errors import Conflict, Unauthenticated
from app.piccolo_conf import DB
from app.wiring import Services
from storage.base import StorageError

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS: Final = 5.0
NO_STORE: Final = {"Cache-Control": "no-store"}
RETRY_SECONDS: Final = "60"  # a check takes minutes where there are millions of objects


def health_routes(services: Services) -> list[ControllerRouterHandler]:
    @get("/health/live", include_in_schema=False)
    async def live() -> Response[dict[str, str]]:
        return Response({"status": "ok"}, headers=NO_STORE)

    checking: asyncio.Task[dict[str, bool]] | None = None

    @get("/health/ready", include_in_schema=False)
    async def ready() -> Response[dict[str, object]]:
        # Anybody may ask, as often as they like: those who ask at once are told of one check.
        nonlocal checking
        if checking is None or checking.done():
            checking = asyncio.create_task(_checks(services))
        checks = await asyncio.shield(checking)
        well = all(checks.values())
        body: dict[str, object] = {"status": "ok" if well else "unavailable", "checks": checks}
        return Response(body, status_code=200 if well else 503, headers=NO_STORE)

    @get("/health/storage", include_in_schema=False)
    async def compare_storage(request: Request[Any, Any, Any]) -> Response[dict[str, Any]]:
        return await _compared(services, request, repair=False)

    @post("/health/storage", include_in_schema=False)
    async def repair_storage(
        request: Request[Any, Any, Any], force: FromQuery[bool] = False
    ) -> Response[dict[str, Any]]:
        return await _compared(services, request, repair=True, force=force)

    return [live, ready, compare_storage, repair_storage]


async def _compared(
    services: Services, request: Request[Any, Any, Any], *, repair: bool, force: bool = False
) -> Response[dict[str, Any]]:
    """The report of `heirloom storage check`, for admins."""
    try:
        viewer = signed_in(await authenticate(services.tokens, request.headers.get("authorization")))
        if not viewer.is_admin:
            return _refused(403, "This is for administrators.")
        report = await agreement.check(services, repair=repair, force=force, now=services.clock())
    except Unauthenticated as error:
        return _refused(401, error.message, {"WWW-Authenticate": "Bearer"})
    except Conflict as error:
        return _refused(409, error.message, {"Retry-After": RETRY_SECONDS})
    except (StorageError, *BUSY_ERRORS) as error:
        logger.warning("The storage could not be checked: %r", error)
        return _refused(503, "The storage does not answer, or the database is busy.", {"Retry-After": RETRY_SECONDS})
    return Response(report.as_json(), status_code=200, headers=NO_STORE)


def _refused(status: int, message: str, headers: dict[str, str] | None = None) -> Response[dict[str, Any]]:
    return Response({"error": message}, status_code=status, headers={**NO_STORE, **(headers or {})})


async def _checks(services: Services) -> dict[str, bool]:
    names = ("database", "storage", "events")
    answers = await asyncio.gather(
        _answers(DB._run_in_pool("SELECT 1")), _answers(services.storage.ready()), _answers(_listening(services))
    )
    return dict(zip(names, answers, strict=True))


async def _answers(check: Awaitable[object]) -> bool:
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await check
    except Exception as error:  # whatever it is: it is not ready
        logger.warning("Not ready: %r", error)
        return False
    return True


async def _listening(services: Services) -> None:
    if not services.hub.listening:
        raise ConnectionError("the event listener has no connection")
