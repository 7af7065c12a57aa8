"""An executor that reads plain fields directly, and leaves all else to graphql-core, of which the answers are the same.

graphql-core spends some 15 µs on each field: it builds what a resolver may want to know, calls through several layers,
and asks of each value what it is. A page of the library has 4,000 fields, of which nearly all are attributes of a row.
Here a selection becomes a plan once a document (see `plans`), and Python of its own (see `readers`): what it can read,
it reads, after what loaders have to bring for it has been asked for at once.

Left to graphql-core: the root's fields, arguments, other async resolvers, every object with a value that isn't plain,
and so every error. With `HEIRLOOM_EXECUTOR=stock` all is left to it.
"""

from __future__ import annotations

from asyncio import wait
from collections.abc import Awaitable
from typing import Any

from graphql import GraphQLObjectType
from graphql.pyutils import Path
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext

from graphql_schema.plans import Fields, Plan, Wanted, plans_of, wanted
from graphql_schema.readers import Reading


class PlainFieldsExecutor(StrawberryGraphQLCoreExecutionContext):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._plans = plans_of(
            self.operation, self.fragment_definitions, self.variable_values.coerced, self.schema, self.type_resolver
        )
        self._found: dict[tuple[str, int], Plan] = {}
        # A middleware is to see every field.
        self._all_stock = bool(
            self.context_value.stock or (self.middleware_manager and self.middleware_manager.middlewares)
        )

    def build_response(self, data: dict[str, Any] | None) -> Any:
        response = super().build_response(data)
        # They refer to this executor, and it to all that was read: left to the garbage collector, that is an eighth of
        # the time of a page.
        self.async_helpers = None  # type: ignore[assignment]
        return response

    def execute_fields(
        self,
        parent_type: GraphQLObjectType,
        source_value: Any,
        path: Path | None,
        grouped_field_set: Fields,
        position_context: Any,
    ) -> Any:
        if path is None or position_context is not None or self._all_stock:
            return super().execute_fields(parent_type, source_value, path, grouped_field_set, position_context)
        plan = self._plan(parent_type, grouped_field_set)
        if not plan.loading:
            return self._read(plan, source_value, path, grouped_field_set, Reading((), self.context_value))
        reading = Reading(self._plans.loading, self.context_value)
        if found := self._wanted(plan, source_value, reading):
            return self._read_when_loaded(plan, source_value, path, grouped_field_set, reading, found)
        return self._read(plan, source_value, path, grouped_field_set, reading)

    def _plan(self, parent: GraphQLObjectType, fields: Fields) -> Plan:
        # Found by identity: graphql-core keeps what it has collected as long as the operation is executed.
        key = (parent.name, id(fields))
        plan = self._found.get(key)
        if plan is None:
            plan = self._found[key] = self._plans.plan(parent, fields, self.collect_subfields)
        return plan

    def _read(self, plan: Plan, source: Any, path: Path, fields: Fields, reading: Reading) -> Any:
        try:
            (answer,) = plan.readers([source], reading)
        except Exception:
            return super().execute_fields(plan.parent, source, path, fields, None)
        finally:
            reading.answers.clear()  # which refer to it: see build_response
        if not plan.left:
            return answer
        left = {name: details for name, details in fields.items() if name in plan.left}
        others: Any = super().execute_fields(plan.parent, source, path, left, None)
        return _with_awaited(answer, others) if self.is_awaitable(others) else answer | others

    def _wanted(self, plan: Plan, source: Any, reading: Reading) -> Wanted:
        """The keys that loaders have yet to bring."""
        try:
            plan.wanters([source], reading)
        except Exception:  # a row that isn't what it should be: its fields will tell
            return {}
        return wanted(reading)

    async def _read_when_loaded(  # noqa: PLR0917
        self, plan: Plan, source: Any, path: Path, fields: Fields, reading: Reading, missing: Wanted
    ) -> Any:
        # What one loader has brought may need another. What fails, its resolver asks for again, and tells where.
        while missing:
            batches = {batch for loader, keys in missing.items() for batch in loader.batches(keys)}
            await wait(batches)
            if any(batch.cancelled() or batch.exception() for batch in batches):
                break
            asked, missing = missing, wanted(reading)
            if missing == asked:  # a loader that leaves out what it has not
                break
        read = self._read(plan, source, path, fields, reading)
        return await read if self.is_awaitable(read) else read


async def _with_awaited(answer: dict[str, Any], others: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    return answer | await others
