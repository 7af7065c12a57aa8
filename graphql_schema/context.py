"""What a resolver can reach: who asks, the services of the process, and what is this one operation's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import strawberry
from graphql import OperationType

from app.access import Viewer
from app.auth import authenticate
from app.errors import RateLimited
from app.promises import MOST_PARTS
from app.rate_limits import Limit, caller
from app.read_cache import Reads
from app.similar import SearchBudget
from app.upload_sessions import SigningBudget
from app.wiring import Services
from graphql_schema.loaders import Loaders
from graphql_schema.trusted import TRUST_IN_NONE, TrustedDocuments

# A page of a hundred media, with what a gallery shows of them, costs 7,000: of these a user has 16 a second.
RATED_COST: Final = 2_500


@dataclass(slots=True)
class Spending:
    """What the operations of one request cost together: see graphql_schema.cost."""

    cost: int = 0
    introspection: int = 0


@dataclass(slots=True)
class Context:
    """Made for a request, or once for a socket. Each operation gets a copy with a viewer, loaders, budgets of its own.

    On a socket the token comes in `connection_init`, and its session may end before the socket does: so the context
    keeps `authorization`, by which the viewer is known anew for each operation.
    """

    services: Services
    viewer: Viewer | None = None
    on_socket: bool = False
    protocol: Callable[[], str] = str  # of a subscription, by the name that metrics have for it
    authorization: str | None = None
    connection_params: dict[str, Any] = field(default_factory=dict)
    # All parts of any one session.
    signing: SigningBudget = field(init=False, default_factory=lambda: SigningBudget(MOST_PARTS))
    searching: SearchBudget = field(init=False, default_factory=SearchBudget)
    trusted: TrustedDocuments = TRUST_IN_NONE
    spending: Spending = field(default_factory=Spending)
    cost: int = field(init=False, default=0)  # of the operation
    _begun: bool = field(init=False, default=False)
    _reads: Reads | None = None
    _loaders: Loaders | None = None

    @property
    def loaders(self) -> Loaders:
        assert self._loaders is not None, "for_operation makes them"
        return self._loaders

    async def reads(self, operation: OperationType) -> Reads:
        """A query is answered with what is kept; a mutation or a subscription sees what has just been written."""
        assert self._reads is not None, "for_operation makes them"
        if operation is OperationType.QUERY:
            await self._reads.catch_up()
        return self._reads

    @property
    def stock(self) -> bool:
        """Whether graphql-core executes every field."""
        return self.services.settings.executor == "stock"

    @property
    def payer(self) -> str:
        """Who is counted, as at the edge: on a socket, before each operation's viewer is known, whom the token names.

        That is the same: an outside issuer's names its account since it was first seen (see Issuer.claimed). Raises
        Unauthenticated.
        """
        return caller(self.viewer.id if self.viewer else self.services.tokens.claimed(self.authorization))

    async def for_operation(self) -> Context:
        """Raises Unauthenticated when a socket's session has ended since it was opened, and RateLimited."""
        if self.on_socket or self._begun:  # a request has been counted before it came here, and with it its first one
            await self.services.limits.spend(Limit.REQUEST, self.payer)
        self._begun = True
        viewer = await authenticate(self.services.tokens, self.authorization) if self.on_socket else self.viewer
        spending = Spending() if self.on_socket else self.spending
        reads = self.services.read_cache.reads_of(viewer)
        loaders = Loaders(self.services, viewer, reads)
        return Context(
            self.services,
            viewer,
            self.on_socket,
            self.protocol,
            self.authorization,
            trusted=self.trusted,
            spending=spending,
            _reads=reads,
            _loaders=loaders,
        )

    async def pay(self) -> None:
        """For what is dearer than most operations, which are counted as one. Raises RateLimited."""
        if units := self.cost // RATED_COST:
            await self.services.limits.spend(Limit.REQUEST, self.payer, units)

    async def pace(self) -> None:
        """The same for each result of a subscription, which waits until it can be paid for."""
        while True:
            try:
                await self.pay()
            except RateLimited as error:
                await asyncio.sleep(error.retry_after)
            else:
                return

    def forget(self) -> None:
        """What one result of a subscription has read, and looked for: the next one is as an operation of its own."""
        self.loaders.clear_all()
        self.searching = SearchBudget()


Info: TypeAlias = strawberry.Info[Context, None]
