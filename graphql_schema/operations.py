"""An operation, from what was sent to its results: the one way to them, whatever the transport.

Strawberry's own way asks every extension for every stage, which is a sixth of the time of a small request.
What extensions would do is a handful of lines here, in the order in which it happens.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, cast

from graphql import DocumentNode, GraphQLError, GraphQLSchema, OperationDefinitionNode
from graphql import ExecutionResult as Executed
from graphql.execution import execute, subscribe
from strawberry.exceptions import MissingQueryError
from strawberry.execution import optimized_is_awaitable
from strawberry.schema.exceptions import CannotGetOperationTypeError, InvalidOperationTypeError
from strawberry.types import ExecutionResult
from strawberry.types.execution import PreExecutionError
from strawberry.types.graphql import OperationType

from app import calls, metrics, tracing
from app.errors import RateLimited
from graphql_schema.context import Context
from graphql_schema.documents import Prepared, PreparedDocuments
from graphql_schema.errors import coded
from graphql_schema.execution import PlainFieldsExecutor
from graphql_schema.limits import Limits, faults_of_values, too_complex

INTROSPECTION_COST: Final = 130_000  # GraphiQL's is 84,000 and takes 25 ms: once, and not twice
# Of a single answer a status tells these; in a stream they are an error like others.
NOT_TO_BE_EXECUTED: Final = (MissingQueryError, CannotGetOperationTypeError, InvalidOperationTypeError)

# On a socket Strawberry forwards all of an operation but its extensions: the task that runs it inherits them by this.
sent_extensions: ContextVar[dict[str, Any] | None] = ContextVar("sent_extensions", default=None)


@dataclass(slots=True)
class Operation:
    """What was sent, and what it is found to be. It is executed once.

    `context` is the request's or the socket's, until the operation has one of its own. `name` is the one asked for, and
    then that of the operation which is executed.
    """

    schema: GraphQLSchema
    documents: PreparedDocuments
    context: Context
    query: str | None
    variables: dict[str, Any] | None
    name: str | None
    extensions: Mapping[str, Any]
    allowed: Collection[OperationType]
    _prepared: Prepared | None = field(init=False, default=None)
    _definition: OperationDefinitionNode | None = field(init=False, default=None)
    _cost: int | None = field(init=False, default=None)
    _outcome: str = field(init=False, default="ok")

    async def result(self) -> ExecutionResult:
        """Of a query or a mutation. Raises what is NOT_TO_BE_EXECUTED, RateLimited, and nothing else."""
        try:
            with self._observed():
                return await self._refusal() or await self._executed()
        except (*NOT_TO_BE_EXECUTED, RateLimited):
            raise
        except Exception as error:
            return self._refused([_as_graphql(error)])

    async def results(self) -> AsyncGenerator[ExecutionResult, None]:
        """Those of a subscription, or the one of another operation."""
        try:
            with self._observed():
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
            yield self._refused([_as_graphql(error)])

    # ------------------------------------------------------------ before it is executed: the cheap bounds come first

    async def _refusal(self) -> PreExecutionError | None:
        """None where it may be executed: trusted or not, parsed, bounded, validated, and paid for."""
        self.context = await self.context.for_operation()
        text = self.context.trusted.text(self.query, self.extensions)
        if not text:
            raise MissingQueryError
        try:
            self._prepared = self.documents.get(text)
        except GraphQLError as error:
            return self._refused([error])
        self._definition = _definition(self._prepared.document, self.name)
        if self._definition is None:
            raise CannotGetOperationTypeError(self.name)
        if self.name is None and self._definition.name is not None:
            self.name = self._definition.name.value
        if self._type not in self.allowed:
            raise InvalidOperationTypeError(self._type)
        if errors := self._faults(self._prepared, self._definition):
            return self._refused(errors)
        await self.context.pay()
        return None

    @property
    def _type(self) -> OperationType:
        assert self._definition is not None
        return OperationType(self._definition.operation.value)

    def _faults(self, prepared: Prepared, definition: OperationDefinitionNode) -> Sequence[GraphQLError]:
        settings = self.context.services.settings
        return (
            faults_of_values(self.variables)
            or prepared.faults(Limits(settings.max_depth, settings.max_aliases))
            or self._charge(prepared, definition, settings.max_cost, settings.max_page)
        )

    def _charge(
        self, prepared: Prepared, definition: OperationDefinitionNode, limit: int, most: int
    ) -> Sequence[GraphQLError]:
        self._forget_undeclared(definition)
        found = prepared.cost(definition, self.variables, most)
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
        if self.variables:
            declared = {each.variable.name.value for each in definition.variable_definitions or ()}
            for name in self.variables.keys() - declared:
                del self.variables[name]

    # ------------------------------------------------------------ executed

    async def _executed(self) -> ExecutionResult:
        found: Any = execute(*self._to_execute, is_awaitable=cast("Any", optimized_is_awaitable), **self._executed_by)
        return self._answer(found if isinstance(found, Executed) else await found)

    async def _subscribed(self) -> AsyncGenerator[ExecutionResult, None]:
        try:
            found: Any = subscribe(*self._to_execute, **self._executed_by)
            found = await found if optimized_is_awaitable(found) else found
            if isinstance(found, Executed):
                yield self._refused(found.errors or [])
                return
            async with aclosing(found) as results:
                async for result in results:
                    yield self._answer(result)
        except Exception as error:
            yield self._answer(Executed(None, [_as_graphql(error)]))

    @property
    def _to_execute(self) -> tuple[GraphQLSchema, DocumentNode]:
        assert self._prepared is not None
        return self.schema, self._prepared.document

    @property
    def _executed_by(self) -> dict[str, Any]:
        return {
            "context_value": self.context,
            "variable_values": self.variables,
            "operation_name": self.name,
            "executor_class": PlainFieldsExecutor,
        }

    # ------------------------------------------------------------ told

    def _refused(self, errors: Sequence[GraphQLError]) -> PreExecutionError:
        self._outcome = "refused"
        return PreExecutionError(None, [coded(error) for error in errors], self._told_extensions)

    def _answer(self, result: Executed) -> ExecutionResult:
        if result.errors:
            self._outcome = "error"
        return ExecutionResult(
            result.data, [coded(error) for error in result.errors or ()] or None, self._told_extensions
        )

    @property
    def _told_extensions(self) -> dict[str, Any] | None:
        if self._cost is None or not self.extensions.get("cost"):
            return None
        return {"cost": {"requested": self._cost, "limit": self.context.services.settings.max_cost}}

    @contextmanager
    def _observed(self) -> Iterator[None]:
        """In metrics, in a trace, and in the line of its request in the log."""
        began, outcome = time.perf_counter(), "cancelled"
        with tracing.operation(on_socket=self.context.on_socket) as span:
            try:
                yield
                outcome = self._outcome
            except Exception:
                outcome = "refused"
                raise
            finally:
                self._tell(outcome, time.perf_counter() - began, span)
        if call := calls.current():
            call.runs(self.name)

    def _tell(self, outcome: str, seconds: float, span: tracing.Operation | None) -> None:
        # Unknown: what was sent can't be parsed, or has no such operation.
        kind = self._definition.operation.value if self._definition else "unknown"
        viewer = self.context.viewer
        metrics.operation_ended(
            self.name,
            kind,
            viewer.id if viewer else None,
            outcome=outcome,
            seconds=None if kind == "subscription" else seconds,
        )
        if span:
            span.ended(self.name, kind, outcome)


def _definition(document: DocumentNode, name: str | None) -> OperationDefinitionNode | None:
    """The operation of that name; of no name, the first. (A document with several, one nameless, is not valid.)"""
    for each in document.definitions:
        if isinstance(each, OperationDefinitionNode) and name in (None, each.name and each.name.value):
            return each
    return None


def _as_graphql(error: Exception) -> GraphQLError:
    if isinstance(error, GraphQLError):
        return error
    message = error.as_http_error_reason() if isinstance(error, CannotGetOperationTypeError) else str(error)
    return GraphQLError(message, original_error=error)
