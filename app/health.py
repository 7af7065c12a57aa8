"""Whether the process lives, and whether it can do its work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Final

from litestar import Response, get
from litestar.types import ControllerRouterHandler

from app.piccolo_conf import DB
from app.wiring import Services

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS: Final = 5.0
NO_STORE: Final = {"Cache-Control": "no-store"}


def health_routes(services: Services) -> list[ControllerRouterHandler]:
    @get("/health/live", include_in_schema=False)
    async def live() -> Response[dict[str, str]]:
        return Response({"status": "ok"}, headers=NO_STORE)

    @get("/health/ready", include_in_schema=False)
    async def ready() -> Response[dict[str, object]]:
        names = ("database", "storage", "events")
        answers = await asyncio.gather(
            _answers(DB._run_in_pool("SELECT 1")), _answers(services.storage.ready()), _answers(_listening(services))
        )
        checks = dict(zip(names, answers, strict=True))
        well = all(answers)
        body: dict[str, object] = {"status": "ok" if well else "unavailable", "checks": checks}
        return Response(body, status_code=200 if well else 503, headers=NO_STORE)

    return [live, ready]


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
