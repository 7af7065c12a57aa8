"""What a resolver can reach: who asks, the services of the process, and what is this one operation's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import strawberry
from strawberry.extensions import SchemaExtension

from app import calls
from app.access import Viewer
from app.auth import authenticate
from app.promises import MOST_PARTS
from app.rate_limits import Limit, caller
from app.similar import SearchBudget
from app.upload_sessions import SigningBudget
from app.wiring import Services
from graphql_schema.loaders import Loaders
from graphql_schema.trusted import TRUST_IN_NONE, TrustedDocuments


@dataclass(slots=True)
class Spending:
    """What the operations of one request cost together: see graphql_schema.cost."""

    cost: int = 0
    introspection: int = 0


@dataclass(slots=True)
class Context:
    """Made for a request, or once for a socket. Each operation gets a copy with a viewer, loaders, budgets of its own.

    `authorization` and `connection_params` are the controller's: on a socket the token comes in `connection_init`.
    """

    services: Services
    viewer: Viewer | None = None
    on_socket: bool = False
    authorization: str | None = None
    connection_params: dict[str, Any] = field(default_factory=dict)
    # All parts of any one session. Not in `__init__`: so `replace` makes a new one.
    signing: SigningBudget = field(init=False, default_factory=lambda: SigningBudget(MOST_PARTS))
    searching: SearchBudget = field(init=False, default_factory=SearchBudget)
    trusted: TrustedDocuments = TRUST_IN_NONE
    spending: Spending = field(default_factory=Spending)
    _begun: bool = field(init=False, default=False)
    _loaders: Loaders | None = None

    @property
    def loaders(self) -> Loaders:
        assert self._loaders is not None, "OperationContext makes them"
        return self._loaders

    async def for_operation(self) -> Context:
        """Raises Unauthenticated when a socket's session has ended since it was opened, and RateLimited."""
        if self.on_socket or self._begun:  # a request has been counted before it came here, and with it its first one
            claimed = self.services.tokens.claimed(self.authorization)
            await self.services.limits.spend(Limit.REQUEST, caller(claimed))
        self._begun = True
        viewer = await authenticate(self.services.tokens, self.authorization) if self.on_socket else self.viewer
        spending = Spending() if self.on_socket else self.spending
        return replace(self, viewer=viewer, spending=spending, _loaders=Loaders(self.services, viewer))

    def forget(self) -> None:
        """What one result of a subscription has read, and looked for: the next one is as an operation of its own."""
        self.loaders.clear_all()
        self.searching = SearchBudget()


Info: TypeAlias = strawberry.Info[Context, None]


class OperationContext(SchemaExtension):
    """Gives each operation a context of its own; a subscription forgets after each of its results."""

    async def on_operation(self) -> AsyncIterator[None]:
        self.execution_context.context = await self.execution_context.context.for_operation()
        yield
        if call := calls.current():
            call.runs(self.execution_context.operation_name)

    def on_stream_result(self, result: Any) -> Any:  # noqa: ARG002 - Strawberry's signature
        yield
        self.execution_context.context.forget()
