"""What an open subscription hears, for as long as its session lasts, and an admin is one."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from app.access import Viewer
from app.auth import ENDED, standing
from app.errors import Forbidden, Unauthenticated
from app.event_hub import Subscription
from app.events import Happening
from app.tables import EventKind

# A session's end is an event, and its expiry known beforehand. Whatever else may become of it is found so late.
ASK_AGAIN_SECONDS: Final = 600.0
# A role is changed in the database, of which no event tells: what an admin is told, they are told by an answer that is
# younger than the event, and no older than this.
ROLE_SECONDS: Final = 1.0


@dataclass(slots=True)
class Hearing:
    """`session_ends` is when the session does so unless it is refreshed; None where nobody is signed in."""

    subscription: Subscription
    viewer: Viewer | None
    session_ends: datetime | None = None
    _asked_at: float = field(init=False, default=0.0)

    @classmethod
    async def begin(cls, subscription: Subscription, viewer: Viewer | None) -> Hearing:
        """Of a subscription that hears of the session's end already. Raises Unauthenticated, or Forbidden."""
        hearing = cls(subscription, viewer)
        await hearing._ask_again()
        return hearing

    async def next(self) -> Happening:
        """Raises Unauthenticated when the session ends, Forbidden for an admin who is none any more, and what the
        subscription raises."""
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
            if self.viewer and self.viewer.is_admin and self._is_in_doubt(happening):
                await self._ask_again()
            return happening

    def _is_in_doubt(self, happening: Happening) -> bool:
        return self._asked_at < max(happening.read_at, time.monotonic() - ROLE_SECONDS)

    def _seconds(self) -> float | None:
        if self.session_ends is None:
            return None
        return min((self.session_ends - datetime.now(UTC)).total_seconds(), ASK_AGAIN_SECONDS)

    async def _ask_again(self) -> None:
        if self.viewer is None:
            return
        asked_at = time.monotonic()
        found = await standing(self.viewer.session_id)
        if found is None:
            raise Unauthenticated(ENDED)
        self.session_ends, role = found
        if self.viewer.is_admin and role != self.viewer.role:
            raise Forbidden("You may see less than before: subscribe anew.")
        self._asked_at = asked_at
