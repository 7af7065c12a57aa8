"""An executor that reads plain fields directly, and leaves all else to graphql-core, of which the answers are the same.

graphql-core spends some 15 µs on each field: it builds what a resolver may want to know, calls through several layers,
and asks of each value what it is. A page of the library has 4,000 fields, of which nearly all are attributes of a row.
Here a selection becomes a plan once an operation (see `plans`): what it can read, it reads, after what loaders have to
bring for it has been asked for at once.

Left to graphql-core: the root's fields, abstract types, arguments, other async resolvers, every field with a value that
isn't plain, and so every error.
"""

from __future__ import annotations

from asyncio import gather
from collections.abc import Awaitable
from typing import Any

from graphql import GraphQLObjectType
from graphql.pyutils import Path
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext

from graphql_schema.plans import Fields, Plan, Planner, Wanted


class PlainFieldsExecutor(StrawberryGraphQLCoreExecutionContext):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._planner = Planner(
            self.schema, self.context_value, type_resolver=self.type_resolver, collect=self.collect_subfields
        )
        # A middleware is to see every field.
        self._all_stock = bool(self.middleware_manager and self.middleware_manager.middlewares)

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
        plan = self._planner.plan(parent_type, grouped_field_set)
        if self._wanted(plan, source_value):
            return self._read_when_loaded(plan, source_value, path)
        return self._read(plan, source_value, path)

    def _read(self, plan: Plan, source: Any, path: Path) -> Any:
        answer, missing = plan.read(source)
        if not missing:
            return answer
        fields = {name: plan.fields[name] for name in missing}
        others: Any = super().execute_fields(plan.parent, source, path, fields, None)
        if self.is_awaitable(others):
            return _with_awaited(answer, others)
        return answer | others

    async def _read_when_loaded(self, plan: Plan, source: Any, path: Path) -> Any:
        # What one loader has brought may need another. What fails, its resolver asks for again, and tells where.
        while wanted := self._wanted(plan, source):
            loads = [loader.load_many([*keys]) for loader, keys in wanted.items()]
            if any(isinstance(each, BaseException) for each in await gather(*loads, return_exceptions=True)):
                break
        read = self._read(plan, source, path)
        return await read if self.is_awaitable(read) else read

    def _wanted(self, plan: Plan, source: Any) -> Wanted:
        """The keys that loaders have yet to bring."""
        wanted: Wanted = {}
        if plan.loading:
            plan.want(source, wanted, self.context_value.loaders)
        return wanted


async def _with_awaited(answer: dict[str, Any], others: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    return answer | await others
