"""Selections of which the answers can be read straight from rows, without asking graphql-core about each field.

Read are attributes, sync resolvers of scalars, and what loaders have brought; values are scalars, enums, objects, and
lists of these, each plain: of just the type that is expected. Whatever else is met is NOT_PLAIN, errors too, and
graphql-core does the whole field anew. That changes nothing: what is read here only reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from graphql import (
    GraphQLNamedType,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLOutputType,
    GraphQLSchema,
    TypeNameMetaFieldDef,
    get_named_type,
    is_abstract_type,
    is_list_type,
    is_non_null_type,
)
from graphql.execution.collect_fields import CollectedFields, FieldDetails
from graphql.pyutils import is_awaitable

from graphql_schema.leaves import NOT_PLAIN, Leaf, leaf_of
from graphql_schema.loaders import Loaded, Loader
from graphql_schema.sources import ContextOnly, Get, source_of

Fields: TypeAlias = dict[str, list[FieldDetails]]
Wanted: TypeAlias = dict[Loader[Any, Any], set[Any]]


@dataclass(frozen=True, slots=True)
class TypeInfo:
    """What telling an object's type takes of graphql-core's own Info."""

    schema: GraphQLSchema
    context: Any
    field_name: str
    is_awaitable: Callable[[Any], Any] = is_awaitable


@dataclass(frozen=True, slots=True)
class Step:
    """A field that may be read: what tells its value, and what tells the answer that the value stands for."""

    name: str  # in the answer
    get: Get
    exact: type | None  # a value of this type is its own answer
    complete: Leaf
    loaded: Loaded | None = None
    below: Selection | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """How the fields of one type are read."""

    parent: GraphQLObjectType
    fields: Fields  # all of them; by their identity the plan is found again, so they must live as long
    steps: Sequence[Step]
    loading: Sequence[Step]  # those that need a loader, themselves or somewhere below
    left: frozenset[str]  # the fields that are never read here

    def read(self, row: Any) -> tuple[dict[str, Any], Sequence[str]]:
        """The answer, and the names of the fields that are missing from it."""
        answer: dict[str, Any] = dict.fromkeys(self.fields)
        failed = []
        for step in self.steps:
            try:
                value = step.get(row)
                if type(value) is not step.exact:
                    value = step.complete(value)
            except Exception:
                value = NOT_PLAIN
            if value is NOT_PLAIN:
                failed.append(step.name)
            else:
                answer[step.name] = value
        if not failed and not self.left:
            return answer, ()
        return answer, [name for name in self.fields if name in self.left or name in failed]

    def want(self, row: Any, wanted: Wanted, loaders: Any) -> None:
        """Add the keys that loaders don't know yet."""
        for step in self.loading:
            try:
                if step.loaded is not None:
                    loader, key = step.loaded.loader(loaders), step.loaded.key(row)
                    if key is not None and not loader.knows(key):
                        wanted.setdefault(loader, set()).add(key)
                        continue
                if step.below is not None and step.below.loads:
                    value = step.get(row)
                    for each in value if type(value) is list else [value]:
                        step.below.want(each, wanted, loaders)
            except Exception:  # noqa: S112 - a row that isn't what it should be: its fields will tell
                continue


@dataclass(frozen=True, slots=True)
class Selection:
    """What is selected of objects, by the name of their type."""

    plans: Mapping[str, Plan]
    type_name: Callable[[Any], Any]
    info: Any
    loads: bool
    may_be_whole: bool  # for some of the types nothing is left to graphql-core

    def read(self, row: Any) -> Any:
        plan = self._plan(row)
        if plan is None or plan.left:
            return NOT_PLAIN
        answer, missing = plan.read(row)
        return NOT_PLAIN if missing else answer

    def want(self, row: Any, wanted: Wanted, loaders: Any) -> None:
        if plan := self._plan(row):
            plan.want(row, wanted, loaders)

    def _plan(self, row: Any) -> Plan | None:
        """None for what is no object, or of none of the types."""
        if row is None or isinstance(row, Exception) or is_awaitable(row):
            return None
        plan = self.plans.get(self.type_name(row))
        is_type_of = plan.parent.is_type_of if plan else None
        return plan if is_type_of is None or is_type_of(row, self.info) is True else None


class Planner:
    """The plans of one operation."""

    def __init__(
        self,
        schema: GraphQLSchema,
        context: Any,
        *,
        type_resolver: Callable[[Any, Any, Any], Any],
        collect: Callable[[GraphQLObjectType, Any], CollectedFields],
    ) -> None:
        self._schema = schema
        self._info = ContextOnly(context)
        self._type_resolver = type_resolver
        self._collect = collect
        self._plans: dict[tuple[str, int], Plan] = {}

    def plan(self, parent: GraphQLObjectType, fields: Fields) -> Plan:
        key = (parent.name, id(fields))
        if key not in self._plans:
            found = [self._step(parent, name, details) for name, details in fields.items()]
            known = [step for step in found if step is not None]
            steps = [step for step in known if step.below is None or step.below.may_be_whole]
            loading = [step for step in known if step.loaded or (step.below and step.below.loads)]
            left = frozenset(fields) - {step.name for step in steps}
            self._plans[key] = Plan(parent, fields, steps, loading, left)
        return self._plans[key]

    def _step(self, parent: GraphQLObjectType, name: str, details: list[FieldDetails]) -> Step | None:
        """None for a field that graphql-core executes."""
        definition = self._schema.get_field(parent, details[0].node.name.value)
        if definition is TypeNameMetaFieldDef:
            return Step(name, lambda _: parent.name, str, lambda value: value)
        if definition is None or (source := source_of(definition, self._info)) is None:
            return None
        get, loaded = source
        complete, exact = leaf_of(definition.type)
        if complete is not None:
            return Step(name, get, exact, complete, loaded)
        below = self._selection(get_named_type(definition.type), details)
        return Step(name, get, None, _completion(definition.type, below), loaded, below)

    def _selection(self, type_: GraphQLNamedType, details: list[FieldDetails]) -> Selection:
        info: Any = TypeInfo(self._schema, self._info.context, details[0].node.name.value)
        possible = self._schema.get_possible_types(type_) if is_abstract_type(type_) else [type_]
        plans = {}
        for each in cast("Sequence[GraphQLObjectType]", possible):
            collected = self._collect(each, details)
            plan = self.plan(each, collected.grouped_field_set)
            if not collected.new_defer_usages:
                plans[each.name] = plan
        return Selection(
            plans,
            self._type_name(type_, info),
            info,
            loads=any(plan.loading for plan in plans.values()),
            may_be_whole=not all(plan.left for plan in plans.values()),
        )

    def _type_name(self, type_: GraphQLNamedType, info: Any) -> Callable[[Any], Any]:
        if not is_abstract_type(type_):
            return lambda _: type_.name
        resolve = type_.resolve_type or self._type_resolver
        return lambda row: resolve(row, info, type_)


def _completion(type_: GraphQLOutputType, below: Selection) -> Leaf:
    """Of objects, or lists of them."""
    if not is_non_null_type(type_):
        complete = _completion(GraphQLNonNull(cast("Any", type_)), below)
        return lambda value: None if value is None else complete(value)
    if not is_list_type(type_.of_type):
        return below.read
    each = _completion(type_.of_type.of_type, below)

    def rows(values: Any) -> Any:
        if type(values) is not list:
            return NOT_PLAIN
        answers = []
        for value in values:
            answers.append(answer := each(value))
            if answer is NOT_PLAIN:
                return NOT_PLAIN
        return answers

    return rows
