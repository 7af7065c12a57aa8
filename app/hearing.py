"""What an open subscription hears, for as long as its session lasts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from app.access import Viewer
from app.auth import ENDED, alive_until
from app.errors import Unauthenticated
from app.events import Happening, Subscription
from app.tables import EventKind

# A session's end is an event, and its expiry known beforehand. Whatever else may become of it is found so late.
ASK_AGAIN_SECONDS: Final = 600.0


@dataclass(slots=True)
class Hearing:
    """`session_ends` is when the session does so unless it is refreshed; None where nobody is signed in."""

    subscription: Subscription
    viewer: Viewer | None
    session_ends: datetime | None = None

    @classmethod
    async def begin(cls, subscription: Subscription, viewer: Viewer | None) -> Hearing:
        """Of a subscription that hears of the session's end already. Raises Unauthenticated."""
        hearing = cls(subscription, viewer)
        await hearing._ask_again()
        return hearing

    async def next(self) -> Happening:
        """Raises Unauthenticated when the session ends, and what the subscription raises."""
        while True:
            limit = asyncio.timeout(self._seconds())
            try:
                async with limit:
                    happening = await anext(self.subscription)
            except TimeoutError:
                if not limit.expired():  # the database's own
                    raise
                await self._ask_again()
                continue
            if happening.kind is EventKind.SESSION_ENDED:
                raise Unauthenticated(ENDED)
            return happening

    def _seconds(self) -> float | None:
        if self.session_ends is None:
            return None
        return min((self.session_ends - datetime.now(UTC)).total_seconds(), ASK_AGAIN_SECONDS)

    async def _ask_again(self) -> None:
        if self.viewer is not None:
            self.session_ends = await alive_until(self.viewer.session_id)
            if self.session_ends is None:
                raise Unauthenticated(ENDED)
