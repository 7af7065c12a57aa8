"""An operation, from what was sent to its results: the one way to them, whatever the transport.

Strawberry's own way asks every extension for every stage, which is a sixth of the time of a small request.
What extensions would do is a handful of lines here, in the order in which it happens.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final, cast

from graphql import DocumentNode, GraphQLError, GraphQLSchema, OperationDefinitionNode, OperationType
from graphql import ExecutionResult as Executed
from graphql.execution import execute, subscribe
from strawberry.execution import optimized_is_awaitable
from strawberry.http import GraphQLRequestData
from strawberry.types import ExecutionResult
from strawberry.types.execution import PreExecutionError

from app import calls, metrics, tracing
from app.errors import RateLimited
from graphql_schema.context import Context
from graphql_schema.documents import Prepared, PreparedDocuments
from graphql_schema.errors import MalformedRequest, MutationNeedsPost, RequestError, coded
from graphql_schema.execution import PlainFieldsExecutor
from graphql_schema.limits import Limits, faults_of_values, too_complex
from graphql_schema.streams import EVENTS, PARTS

INTROSPECTION_COST: Final = 130_000  # GraphiQL's is 84,000 and takes 25 ms: once, and not twice


@dataclass(slots=True)
class Operation:
    """What was `sent`, and what it is found to be. It is executed once.

    `context` is the request's or the socket's, until the operation has one of its own. Every error of a result is one
    that a client may see: see errors.coded.
    """

    schema: GraphQLSchema
    documents: PreparedDocuments
    context: Context
    sent: GraphQLRequestData
    allowed: Collection[OperationType]
    _prepared: Prepared | None = field(init=False, default=None)
    _definition: OperationDefinitionNode | None = field(init=False, default=None)
    _cost: int | None = field(init=False, default=None)
    _outcome: str = field(init=False, default="ok")

    async def result(self) -> ExecutionResult:
        """Of a query or a mutation. Raises RequestError and RateLimited, of which a status tells, and nothing else."""
        began = time.perf_counter()
        with tracing.operation(on_socket=self.context.on_socket) as span:
            try:
                return await self._refusal() or await self._executed()
            except (RequestError, RateLimited):
                self._outcome = "refused"
                raise
            except Exception as error:
                return self._refused([error])
            except BaseException:
                self._outcome = "cancelled"
                raise
            finally:
                self._ended(began, span)

    async def results(self) -> AsyncGenerator[ExecutionResult, None]:
        """Those of a subscription, or the one of another operation. Raises nothing: what fails is a result too."""
        # As `result` has it: a context manager for both is a hundredth of the time of a small request.
        began = time.perf_counter()
        with tracing.operation(on_socket=self.context.on_socket) as span:
            try:
                if refusal := await self._refusal():
                    yield refusal
                elif self._type is OperationType.SUBSCRIPTION:
                    async with aclosing(self._subscribed()) as results:
                        async for result in results:
                            yield result
                            self.context.forget()
                else:
                    yield await self._executed()
            except Exception as error:
                yield self._refused([error])
            except BaseException:
                self._outcome = "cancelled"
                raise
            finally:
                self._ended(began, span)

    # ------------------------------------------------------------ before it is executed: the cheap bounds come first

    async def _refusal(self) -> PreExecutionError | None:
        """None where it may be executed: trusted or not, parsed, bounded, validated, and paid for."""
        self.context = await self.context.for_operation()
        text = self.context.trusted.text(self.sent.query, self.sent.extensions)
        if not text:
            raise MalformedRequest("The request has no `query`.")
        self._prepared = self.documents.get(text)
        self._definition = _definition(self._prepared.document, self.sent.operation_name)
        if self._type not in self.allowed:
            raise _not_allowed(self._type)
        if errors := self._faults(self._prepared, self._definition):
            return self._refused(errors)
        await self.context.pay()
        return None

    @property
    def _type(self) -> OperationType:
        assert self._definition is not None
        return self._definition.operation

    @property
    def _name(self) -> str | None:
        """That of the operation which is executed; before that is known, the one asked for."""
        if self._definition and self._definition.name:
            return self._definition.name.value
        return self.sent.operation_name

    def _faults(self, prepared: Prepared, definition: OperationDefinitionNode) -> Sequence[GraphQLError]:
        settings = self.context.services.settings
        return (
            faults_of_values(self.sent.variables)
            or prepared.faults(Limits(settings.max_depth, settings.max_aliases))
            or self._charge(prepared, definition, settings.max_cost, settings.max_page)
        )

    def _charge(
        self, prepared: Prepared, definition: OperationDefinitionNode, limit: int, most: int
    ) -> Sequence[GraphQLError]:
        self._forget_undeclared(definition)
        found = prepared.cost(definition, self.sent.variables, most)
        self._cost = self.context.cost = found.operation
        # With what the other operations of a batch have cost.
        spending = self.context.spending
        spending.cost += found.operation
        spending.introspection += found.introspection
        if spending.introspection > INTROSPECTION_COST:
            return [too_complex("introspection", "cost", found.introspection, INTROSPECTION_COST, definition)]
        if spending.cost > limit:
            return [too_complex("operation", "cost", spending.cost, limit, definition)]
        return []

    def _forget_undeclared(self, definition: OperationDefinitionNode) -> None:
        """Variables that nothing reads: a subscription would keep them for as long as it is open."""
        if variables := self.sent.variables:
            declared = {each.variable.name.value for each in definition.variable_definitions or ()}
            for name in variables.keys() - declared:
                del variables[name]

    # ------------------------------------------------------------ executed

    async def _executed(self) -> ExecutionResult:
        found: Any = execute(**self._to_execute, is_awaitable=cast("Any", optimized_is_awaitable))
        found = found if isinstance(found, Executed) else await found
        return self._answer(found.data, found.errors)

    async def _subscribed(self) -> AsyncGenerator[ExecutionResult, None]:
        try:
            found: Any = subscribe(**self._to_execute)
            found = await found if optimized_is_awaitable(found) else found
            if isinstance(found, Executed):
                yield self._refused(found.errors or [])
                return
            async with aclosing(found) as results:
                async for result in results:
                    yield self._answer(result.data, result.errors)
        except Exception as error:
            yield self._answer(None, [error])

    @property
    def _to_execute(self) -> dict[str, Any]:
        assert self._prepared is not None
        return {
            "schema": self.schema,
            "document": self._prepared.document,
            "context_value": self.context,
            "variable_values": self.sent.variables,
            "operation_name": self._name,
            "executor_class": PlainFieldsExecutor,
        }

    # ------------------------------------------------------------ told

    def _refused(self, errors: Sequence[Exception]) -> PreExecutionError:
        self._outcome = "refused"
        return PreExecutionError(None, [coded(error) for error in errors], self._told_extensions)

    def _answer(self, data: dict[str, Any] | None, errors: Sequence[Exception] | None) -> ExecutionResult:
        if errors:
            self._outcome = "error"
        return ExecutionResult(data, [coded(error) for error in errors] if errors else None, self._told_extensions)

    @property
    def _told_extensions(self) -> dict[str, Any] | None:
        if self._cost is None or not (self.sent.extensions and self.sent.extensions.get("cost")):
            return None
        return {"cost": {"requested": self._cost, "limit": self.context.services.settings.max_cost}}

    def _ended(self, began: float, span: tracing.Operation | None) -> None:
        """In metrics, in a trace, and in the line of its request in the log."""
        # Unknown: what was sent can't be parsed, or has no such operation.
        name, kind = self._name, self._definition.operation.value if self._definition else "unknown"
        viewer = self.context.viewer
        metrics.operation_ended(
            name,
            kind,
            viewer.id if viewer else None,
            outcome=self._outcome,
            seconds=None if kind == "subscription" else time.perf_counter() - began,
        )
        if span:
            span.ended(name, kind, self._outcome)
        if call := calls.current():
            call.runs(name)


def _definition(document: DocumentNode, name: str | None) -> OperationDefinitionNode:
    """The operation of that name; of no name, the first. (A document with several, one nameless, is not valid.)"""
    for each in document.definitions:
        if isinstance(each, OperationDefinitionNode) and name in (None, each.name and each.name.value):
            return each
    raise MalformedRequest(
        f'Unknown operation named "{name}".' if name is not None else "The document has no operation."
    )


def _not_allowed(kind: OperationType) -> RequestError:
    if kind is OperationType.MUTATION:
        return MutationNeedsPost("A mutation is sent by POST.")
    return MalformedRequest(
        "A subscription is served over a WebSocket with the subprotocol graphql-transport-ws, or as a stream: "
        f"accept {EVENTS.accepted} or {PARTS.accepted}."
    )
