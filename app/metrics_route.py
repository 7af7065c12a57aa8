"""`/metrics`, for Prometheus; for everybody else there is no such page."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, route
from litestar.enums import HttpMethod
from litestar.exceptions import NotFoundException
from litestar.types import ControllerRouterHandler

from app import metrics
from app.exposition import MEDIA_TYPE, Exposition, may_read
from app.metrics import METRICS_PATH
from app.settings import Settings

NO_STORE = {"Cache-Control": "no-store"}


def metrics_routes(settings: Settings) -> list[ControllerRouterHandler]:
    """There are none where nothing is counted."""
    instruments = metrics.instruments()
    if instruments is None:
        return []
    exposition = Exposition(instruments.folder)

    # Of all methods: a 405 would tell that there is something.
    @route(METRICS_PATH, http_method=list(HttpMethod), status_code=200, include_in_schema=False)
    async def scrape(request: Request[Any, Any, Any]) -> Response[bytes]:
        client = request.client.host if request.client else ""
        if request.method != HttpMethod.GET or not may_read(settings, client, request.scope["headers"]):
            raise NotFoundException
        return Response(await exposition.text(), media_type=MEDIA_TYPE, headers=NO_STORE)

    return [scrape]
