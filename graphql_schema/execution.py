"""An executor that reads plain fields directly, and leaves all else to graphql-core, of which the answers are the same.

graphql-core spends some 15 µs on each field: it builds what a resolver may want to know, calls through several layers,
and asks of each value what it is. A page of the library has 4,000 fields, of which nearly all are attributes of a row.
Here a selection becomes a plan once an operation; by it attributes are read in one loop, resolvers that take
nothing but their parent are called directly, and what loaders bring is asked for once a list (see `loaders.loaded`).

Left to graphql-core: the root's fields, abstract types, arguments, other async resolvers, every value that isn't plain
and every error. A resolver is never called twice for one field, as it might be if errors were made there anew.
"""

from __future__ import annotations

import inspect
from asyncio import gather
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from types import CoroutineType, GeneratorType
from typing import Any, Final, TypeAlias, cast

from graphql import (
    GraphQLField,
    GraphQLNullableType,
    GraphQLObjectType,
    GraphQLOutputType,
    GraphQLResolveInfo,
    Undefined,
    get_nullable_type,
    is_list_type,
    is_non_null_type,
    is_object_type,
)
from graphql.execution.collect_fields import FieldDetails
from graphql.pyutils import Path
from graphql.pyutils.gather_with_cancel import gather_with_cancel
from piccolo.columns import Column
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext
from strawberry.types.field import StrawberryField
from strawberry.types.info import Info

from graphql_schema.leaves import NOT_PLAIN, Leaf, leaf_of
from graphql_schema.loaders import LOADED, Loaded

Details = list[FieldDetails]
GroupedFields = dict[str, Details]
AnyInfo: TypeAlias = GraphQLResolveInfo[Any]
# Of a row and its field's Info.
Read = Callable[[Any, Any], Any]

_STRAWBERRY: Final = "strawberry-definition"  # where Strawberry keeps its own of a field
_SHAPE: Final = "heirloom-shape"
_MISSING: Final = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What is known of a field before any operation: where its value comes from, and what becomes of it."""

    field: StrawberryField
    returns: GraphQLOutputType
    attribute: str | None = None  # the value is this attribute of the row,
    loaded: Loaded | None = None  # or is known to a loader,
    read: Read | None = None  # or comes from this resolver
    wants_info: bool = False
    leaf: Leaf | None
    exact: type | None
    row_type: GraphQLObjectType | None  # of the object, or of the list's objects
    is_list: bool


@dataclass(frozen=True, slots=True)
class Step:
    """A field of a selection. Without a shape it is graphql-core's."""

    name: str  # in the answer
    details: Details
    shape: Shape | None

    @property
    def is_plain(self) -> bool:
        """Whether it is read in place: an attribute that is a scalar, an enum, or a list of these."""
        return self.shape is not None and self.shape.attribute is not None and self.shape.leaf is not None


@dataclass(frozen=True, slots=True)
class Plan:
    parent: GraphQLObjectType
    fields: GroupedFields  # by whose identity it is found again, so it must live as long
    steps: Sequence[Step]
    # Those that are read in place: the name in the answer, the attribute, the type that is its own answer, whether None
    # is, and what completes all else.
    plain: Sequence[tuple[str, str, type | None, bool, Leaf]]
    others: Sequence[Step]
    names: Sequence[str]  # in the answer, in its order
    attributes: Sequence[str]
    _in_dictionary: dict[type, bool] = field(default_factory=dict)

    def values(self, source: Any) -> dict[str, Any]:
        """The attributes of a row, and perhaps others. Left out are those that can't be read."""
        kind = type(source)
        in_dictionary = self._in_dictionary.get(kind)
        if in_dictionary is None:
            in_dictionary = bool(kind.__dictoffset__) and all(_in_dictionary(kind, name) for name in self.attributes)
            self._in_dictionary[kind] = in_dictionary
        if in_dictionary:
            values: dict[str, Any] = source.__dict__
            return values
        return _read_each(source, self.attributes)


class LazyInfo(Info[Any, Any]):
    """What a resolver may ask of its field: built when it is asked for more than the context."""

    def __init__(self, executor: PlainFieldsExecutor, plan: Plan, step: Step, shape: Shape, above: Path) -> None:
        self._executor = executor
        self._place = (plan, step, above)
        self._field = shape.field

    @property
    def context(self) -> Any:
        return self._executor.context_value

    @property
    def _raw_info(self) -> AnyInfo:  # type: ignore[override]  # it is read only
        plan, step, above = self._place
        self._executor.seeing += 1
        return self._executor._info(plan.parent, step, Path(above, step.name, plan.parent.name))


class PlainFieldsExecutor(StrawberryGraphQLCoreExecutionContext):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._plans: dict[tuple[str, int], Plan] = {}
        self._same: dict[tuple[int, int], tuple[Any, Any]] = {}
        self._ahead: dict[tuple[int, int], tuple[Any, Any]] = {}  # by plan and row, with the row
        # Fields so far of which the resolver could see where in the answer it is.
        self.seeing = 0
        # A middleware is to see every field.
        self._all_stock = bool(self.middleware_manager and self.middleware_manager.middlewares)

    # ------------------------------------------------------------ objects

    def execute_fields(
        self,
        parent_type: GraphQLObjectType,
        source_value: Any,
        path: Path | None,
        grouped_field_set: GroupedFields,
        position_context: Any,
    ) -> Any:
        if path is None or position_context is not None or self._all_stock:
            return super().execute_fields(parent_type, source_value, path, grouped_field_set, position_context)
        return self._read(self._plan(parent_type, grouped_field_set), source_value, path)

    def execute_field(
        self,
        parent_type: GraphQLObjectType,
        source: Any,
        field_details_list: Details,
        path: Path,
        position_context: Any,
    ) -> Any:
        self.seeing += 1
        return super().execute_field(parent_type, source, field_details_list, path, position_context)

    def _read(self, plan: Plan, source: Any, path: Path) -> Any:
        """`execute_fields`, by a plan."""
        results = self._filled(plan, [source])[0]
        if results is not None:
            return self._finished(plan, plan.others, source, results, path)
        return self._finished(plan, plan.steps, source, dict.fromkeys(plan.names), path)

    def _filled(self, plan: Plan, rows: Sequence[Any]) -> list[dict[str, Any] | None]:
        """The rows' answers as far as they are read in place; None for a row with a value that isn't plain.

        Field by field, as that takes half the time of row by row; nobody can tell, since reading changes nothing.
        """
        if self._ahead:
            there = [self._ahead.pop((id(plan), id(row)), (None, None)) for row in rows]
            if all(kept is row for row, (kept, _) in zip(rows, there, strict=True)):
                return [answer for _, answer in there]
        values = [plan.values(row) for row in rows]
        filled: list[dict[str, Any] | None] = [dict.fromkeys(plan.names) for _ in rows]
        results: list[Any] = filled[:]
        for name, attribute, exact, nullable, leaf in plan.plain:
            for index, (result, value_of) in enumerate(zip(results, values, strict=True)):
                try:
                    value = value_of[attribute]
                except KeyError:
                    value = _MISSING
                if type(value) is exact:
                    result[name] = value
                elif value is None and nullable:
                    continue  # as it is already
                elif (value := leaf(value)) is NOT_PLAIN:
                    filled[index] = None
                else:
                    result[name] = value
        return filled

    def fill_ahead(self, plan: Plan, rows: Sequence[Any]) -> None:
        """The objects that these rows have, and the lists: all of a kind together, not a few for each row."""
        for step in plan.others:
            shape = step.shape
            if (
                shape is None
                or shape.row_type is None
                or (further := self._plan_of(shape.row_type, step.details)) is None
            ):
                continue
            found: list[Any] = []
            for row in rows:
                if shape.loaded is None:
                    value = getattr(row, shape.attribute or "", None)
                else:
                    value = self._known(shape.loaded, row) if shape.is_list else None  # else: see `_completed_once`
                if not shape.is_list:
                    found.append(value)
                elif type(value) is list:
                    found += value
            found = [value for value in found if value is not None]
            for row, answer in zip(found, self._filled(further, found), strict=True):
                self._ahead[id(further), id(row)] = (row, answer)
            self.fill_ahead(further, found)

    def _finished(self, plan: Plan, steps: Sequence[Step], source: Any, results: dict[str, Any], path: Path) -> Any:
        """An answer in which these fields are still missing."""
        awaited: list[str] = []
        try:
            for step in steps:
                result = self._execute(plan, step, source, path)
                if result is Undefined:
                    del results[step.name]
                    continue
                results[step.name] = result
                if self.is_awaitable(result):
                    awaited.append(step.name)
        except Exception:
            if awaited:
                self.settle_in_background([results[name] for name in awaited])
            raise
        return _when_there(results, awaited) if awaited else results

    def _execute(self, plan: Plan, step: Step, source: Any, above: Path) -> Any:
        """`execute_field`, of an object whose place in the answer is `above`."""
        shape = step.shape
        if shape is not None and shape.read is not None:
            return self._called(plan, step, shape, source, above)
        path = Path(above, step.name, plan.parent.name)
        if shape is not None and shape.loaded is not None:
            known = self._known(shape.loaded, source)
            if known is not _MISSING:
                return self._completed_once(plan.parent, step, shape, path, known)
        elif shape is not None and shape.leaf is None:
            return self._below(plan.parent, step, shape, source, path)
        return self.execute_field(plan.parent, source, step.details, path, None)

    def _called(self, plan: Plan, step: Step, shape: Shape, source: Any, above: Path) -> Any:
        """A resolver's value."""
        try:
            info = LazyInfo(self, plan, step, shape, above) if shape.wants_info else None
            value = shape.read(source, info)  # type: ignore[misc]  # the caller knows
            if shape.leaf is not None and (completed := shape.leaf(value)) is not NOT_PLAIN:
                return completed
        except Exception as error:
            self.handle_field_error(error, shape.returns, step.details, Path(above, step.name, plan.parent.name))
            return None
        return self._completed(plan.parent, step, shape, Path(above, step.name, plan.parent.name), value)

    def _below(self, parent: GraphQLObjectType, step: Step, shape: Shape, source: Any, path: Path) -> Any:
        """An attribute that is an object, or a list of them."""
        try:
            value = getattr(source, cast("str", shape.attribute))
        except Exception as error:
            self.handle_field_error(error, shape.returns, step.details, path)
            return None
        return self._completed(parent, step, shape, path, value)

    def _completed(self, parent: GraphQLObjectType, step: Step, shape: Shape, path: Path, value: Any) -> Any:
        """A field's value, or what becomes of its error."""
        info = self._info(parent, step, path)
        try:
            if self.is_awaitable(value):
                return self.complete_awaitable_value(shape.returns, step.details, info, path, value, None)
            row_type = None if shape.is_list else shape.row_type
            if row_type is not None and _is_row(row_type, value, info):
                plan = self._plan_of(row_type, step.details)
                completed = self._read(plan, value, path) if plan else Undefined
            else:
                completed = Undefined
            if completed is Undefined:
                completed = self.complete_value(shape.returns, step.details, info, path, value, None)
        except Exception as error:
            self.handle_field_error(error, shape.returns, step.details, path)
            return None
        return self._guarded(completed, shape.returns, step.details, path)

    def _completed_once(self, parent: GraphQLObjectType, step: Step, shape: Shape, path: Path, value: Any) -> Any:
        """What many rows refer to (their owner, what they belong to) is completed for the first of them."""
        key = (id(step.details), id(value))
        if (found := self._same.get(key)) is not None:
            return found[1]
        before = (len(self.collected_errors.errors), self.seeing)
        completed = self._completed(parent, step, shape, path, value)
        # What is awaited is another's, and what tells of its path, as an error does, is another for each row.
        unchanged = (len(self.collected_errors.errors), self.seeing) == before
        if completed is not None and unchanged and not self.is_awaitable(completed):
            self._same[key] = (value, completed)  # the value, too: while it lives, nothing else has its id
        return completed

    def _guarded(self, completed: Any, type_: GraphQLOutputType, details: Details, path: Path) -> Any:
        """What is still awaited, with its error handled here as it would be if it came at once."""
        if not self.is_awaitable(completed):
            return completed

        async def guarded() -> Any:
            try:
                return await completed
            except Exception as error:
                self.handle_field_error(error, type_, details, path)
                return None

        return guarded()

    def _info(self, parent: GraphQLObjectType, step: Step, path: Path) -> AnyInfo:
        nodes = [details.node for details in step.details]
        definition = self.schema.get_field(parent, nodes[0].name.value)
        assert definition is not None, "it has a shape"
        return self.build_resolve_info(definition, nodes, parent, path)

    # ------------------------------------------------------------ lists

    def complete_iterable_value(  # noqa: PLR0917 - graphql-core's signature
        self,
        item_type: GraphQLOutputType,
        field_details_list: Details,
        info: AnyInfo,
        path: Path,
        items: Any,
        position_context: Any,
    ) -> Any:
        row_type = get_nullable_type(item_type)
        if type(items) is list and position_context is None and not self._all_stock and is_object_type(row_type):
            plan = self._plan_of(row_type, field_details_list)
            if plan is not None:
                whole = List(self, item_type, row_type, plan, field_details_list, info, path, items)
                loads = self._loads(plan, items)
                return whole.completed_after(loads) if loads else whole.completed()
        return super().complete_iterable_value(item_type, field_details_list, info, path, items, position_context)

    def _loads(self, plan: Plan, rows: Sequence[Any]) -> list[Awaitable[Any]]:
        """What loaders have to bring before the rows can be read."""
        found: list[Awaitable[Any]] = []
        for step in plan.steps:
            shape = step.shape
            if shape is None or step.is_plain:
                continue
            try:
                if shape.loaded is not None:
                    loader = shape.loaded.loader(self.context_value.loaders)
                    keys = [key for key in map(shape.loaded.key, rows) if key is not None]
                    if any(not loader.knows(key) for key in keys):
                        found.append(loader.load_many(keys))
                elif shape.attribute is not None and is_object_type(below := get_nullable_type(shape.returns)):
                    further = self._plan_of(below, step.details)
                    if further is not None:
                        found += self._loads(further, [getattr(row, shape.attribute) for row in rows])
            except Exception:  # noqa: S112 - rows that aren't what they should be: their fields will tell
                continue
        return found

    def _known(self, loaded: Loaded, source: Any) -> Any:
        """What a loader has brought already; _MISSING when the resolver is to ask for it, or to fail."""
        try:
            key = loaded.key(source)
            if key is None:
                return None
            loader = loaded.loader(self.context_value.loaders)
            return loader.known(key) if loader.knows(key) else _MISSING
        except Exception:
            return _MISSING

    # ------------------------------------------------------------ plans

    def _plan_of(self, type_: GraphQLNullableType, details: Details) -> Plan | None:
        """The plan of what is selected below a field; none where something is deferred."""
        collected = self.collect_subfields(type_, details)  # type: ignore[arg-type]  # an object type, the caller knows
        return None if collected.new_defer_usages else self._plan(type_, collected.grouped_field_set)

    def _plan(self, type_: Any, fields: GroupedFields) -> Plan:
        key = (type_.name, id(fields))
        plan = self._plans.get(key)
        if plan is None:
            steps = [self._step(type_, name, details) for name, details in fields.items()]
            plain = [
                (step.name, shape.attribute, shape.exact, not is_non_null_type(shape.returns), shape.leaf)
                for step in steps
                if (shape := step.shape) is not None and shape.attribute is not None and shape.leaf is not None
            ]
            plan = self._plans[key] = Plan(
                type_,
                fields,
                steps,
                plain=plain,
                others=[step for step in steps if not step.is_plain],
                names=list(fields),
                attributes=[attribute for _, attribute, *_ in plain],
            )
        return plan

    def _step(self, parent: GraphQLObjectType, name: str, details: Details) -> Step:
        definition = self.schema.get_field(parent, details[0].node.name.value)
        return Step(name, details, _shape(definition) if definition is not None else None)


@dataclass(frozen=True, slots=True)
class List:
    """A list of objects of one type, being completed."""

    executor: PlainFieldsExecutor
    item_type: GraphQLOutputType
    row_type: GraphQLObjectType
    plan: Plan
    details: Details
    info: AnyInfo
    path: Path
    items: list[Any]

    async def completed_after(self, loads: Sequence[Awaitable[Any]]) -> Any:
        # What fails is asked for again, by the fields themselves: they say where.
        await gather(*loads, return_exceptions=True)
        completed = self.completed()
        return await completed if inspect.isawaitable(completed) else completed

    def completed(self) -> Any:
        executor = self.executor
        results: list[Any] = []
        awaited: list[int] = []
        rows = [index for index, item in enumerate(self.items) if _is_row(self.row_type, item, self.info)]
        filled = dict(zip(rows, executor._filled(self.plan, [self.items[index] for index in rows]), strict=True))
        others = self.plan.others
        if others:
            executor.fill_ahead(self.plan, [self.items[index] for index in rows])
        try:
            for index, item in enumerate(self.items):
                answer = filled.get(index)
                if answer is not None and not others:
                    results.append(answer)
                    continue
                path = Path(self.path, index, None)
                if index in filled:
                    result = self._row(item, answer, path)
                    results.append(result)
                    if type(result) is not dict and result is not None:
                        awaited.append(index)
                elif executor.is_awaitable(item):
                    results.append(
                        executor.complete_awaitable_list_item_value(
                            item, self.item_type, self.details, self.info, path, None
                        )
                    )
                    awaited.append(index)
                elif executor.complete_list_item_value(
                    item, results, self.item_type, self.details, self.info, path, None
                ):
                    awaited.append(index)
        except Exception:
            rest = [item for item in self.items[len(results) + 1 :] if executor.is_awaitable(item)]
            if pending := [results[index] for index in awaited] + rest:
                executor.settle_in_background(pending)
            raise
        return _when_there(results, awaited) if awaited else results

    def _row(self, item: Any, answer: dict[str, Any] | None, path: Path) -> Any:
        """An item's answer, of which the plain fields may be there."""
        executor, plan = self.executor, self.plan
        steps = plan.steps if answer is None else plan.others
        try:
            completed = executor._finished(plan, steps, item, answer or dict.fromkeys(plan.names), path)
        except Exception as error:
            executor.handle_field_error(error, self.item_type, self.details, path)
            return None
        if type(completed) is dict:
            return completed
        return executor._guarded(completed, self.item_type, self.details, path)


def _is_row(type_: GraphQLObjectType, value: Any, info: AnyInfo) -> bool:
    """Whether it is an object of the type, beyond doubt."""
    if value is None or isinstance(value, Exception) or _may_be_awaitable(type(value)):
        return False
    return type_.is_type_of is None or type_.is_type_of(value, info) is True


async def _when_there(results: Any, awaited: Sequence[Any]) -> Any:
    """The same results, those of these names or places awaited."""
    if len(awaited) == 1:
        results[awaited[0]] = await results[awaited[0]]
        return results
    there = await gather_with_cancel(*(results[place] for place in awaited))
    for place, result in zip(awaited, there, strict=True):
        results[place] = result
    return results


# What is known of fields and classes


def _shape(definition: GraphQLField) -> Shape | None:
    """None for a field that graphql-core executes."""
    if _SHAPE not in definition.extensions:
        definition.extensions[_SHAPE] = _found_shape(definition)
    shape: Shape | None = definition.extensions[_SHAPE]
    return shape


def _found_shape(definition: GraphQLField) -> Shape | None:
    known = definition.extensions.get(_STRAWBERRY)
    if not isinstance(known, StrawberryField) or definition.args or known.extensions:
        return None
    leaf, exact = leaf_of(definition.type)
    below = get_nullable_type(definition.type)
    is_list = is_list_type(below)
    row_type = get_nullable_type(below.of_type) if is_list_type(below) else below
    shape = partial(
        Shape,
        field=known,
        returns=definition.type,
        leaf=leaf,
        exact=exact,
        row_type=row_type if is_object_type(row_type) else None,
        is_list=is_list,
    )
    if known.is_basic_field:
        return shape(attribute=known.python_name)
    if (found := known.metadata.get(LOADED)) is not None:
        return shape(loaded=found)
    if known.is_async or known.base_resolver is None:
        return None
    read, wants_info = _call(known.base_resolver)
    return shape(read=read, wants_info=wants_info) if read else None


def _call(resolver: Any) -> tuple[Read | None, bool]:
    """A call of a resolver that takes its parent, and perhaps Info, in this order; none if it is another."""
    function = resolver.wrapped_func
    given = {resolver.self_parameter, resolver.parent_parameter, resolver.root_parameter} - {None}
    kinds = "".join(
        "i" if each == resolver.info_parameter else "r" if each in given else "?"
        for each in resolver.signature.parameters.values()
    )
    calls: dict[str, Read] = {
        "r": lambda row, _: function(row),
        "rr": lambda row, _: function(row, row),
        "ri": function,
        "rri": lambda row, info: function(row, row, info),
    }
    return calls.get(kinds), kinds.endswith("i")


def _read_each(source: Any, names: Sequence[str]) -> dict[str, Any]:
    found = {}
    for name in names:
        try:
            found[name] = getattr(source, name)
        except Exception:  # noqa: S112 - graphql-core reads it again, and tells
            continue
    return found


@cache
def _in_dictionary(kind: Any, name: str) -> bool:
    """Whether an object's own dictionary holds what reading this attribute would give, or nothing of it."""
    if inspect.getattr_static(kind, "__getattribute__") is not object.__getattribute__:
        return False
    attribute = inspect.getattr_static(kind, name, None)
    # Piccolo's columns are data descriptors, of which each gives what the dictionary has, in ten times the time.
    return isinstance(attribute, Column) or not hasattr(type(attribute), "__set__")


@cache
def _may_be_awaitable(kind: Any) -> bool:
    return issubclass(kind, GeneratorType | CoroutineType) or hasattr(kind, "__await__") or hasattr(kind, "__getattr__")
