"""Selections of which the answers can be read straight from rows, without asking graphql-core about each field.

Read are attributes, sync resolvers of scalars, and what loaders have brought; values are scalars, enums, objects, and
lists of these, each plain: of just the type that is expected. Whatever else is met is NotPlain, errors too, and
graphql-core does the whole object anew. That changes nothing: what is read here only reads.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeAlias, cast
from weakref import ReferenceType, proxy, ref

from graphql import (
    DirectiveNode,
    FragmentDefinitionNode,
    GraphQLAbstractType,
    GraphQLNamedType,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLOutputType,
    GraphQLSchema,
    OperationDefinitionNode,
    TypeNameMetaFieldDef,
    VariableNode,
    get_named_type,
    is_abstract_type,
    is_list_type,
    is_non_null_type,
)
from graphql.execution.collect_fields import CollectedFields, FieldDetails
from graphql.pyutils import is_awaitable

from graphql_schema.leaves import Leaf, NotPlain, leaf_of
from graphql_schema.loaders import Loaded, Loader
from graphql_schema.readers import ByClass, Function, Reading, completer, ignore, reader, wanter
from graphql_schema.sources import Source, source_of

Fields: TypeAlias = dict[str, list[FieldDetails]]
Wanted: TypeAlias = dict[Loader[Any, Any], set[Any]]
Collect: TypeAlias = Callable[[GraphQLObjectType, Any], CollectedFields]

MOST_SELECTIONS: Final = 4  # of one operation, by its variables, of which the plans are kept
MOST_STEPS: Final = 50_000  # of all plans that are kept; one takes a kilobyte, and the page of a client has some 50
_SHAPES: Final = frozenset({"", "?", "[", "?[", "[?", "?[?"})


@dataclass(frozen=True, slots=True)
class TypeInfo:
    """What telling an object's type takes of graphql-core's own Info."""

    schema: GraphQLSchema
    field_name: str
    is_awaitable: Callable[[Any], Any] = is_awaitable


@dataclass(slots=True)
class Step:
    """A field that may be read: what tells its value, and what tells the answer that the value stands for.

    `shape` is that of objects: `?` where null may be, `[` where a list is. Without a source its type's name is it.
    """

    name: str  # in the answer
    source: Source | None = None
    leaf: Leaf | None = None
    below: Selection | None = None
    shape: str = ""
    typename: str = ""
    place: int = -1  # among the operation's steps that need a loader
    _completed: Function | None = None

    @property
    def loads_below(self) -> bool:
        return self.below is not None and self.below.loads

    @property
    def completed(self) -> Function:
        if self._completed is None:
            self._completed = completer(self)
        return self._completed


@dataclass(slots=True, weakref_slot=True)
class Plan:
    """How the fields of one type are read."""

    parent: GraphQLObjectType
    fields: Sequence[str]  # names in the answer, of all of them
    steps: Sequence[Step]
    loading: Sequence[Step]  # those that need a loader, themselves or somewhere below
    left: frozenset[str]  # the names of the fields that are never read here
    readers: ByClass = field(init=False)
    wanters: ByClass = field(init=False)

    def __post_init__(self) -> None:
        # Weakly, else it were a circle, which outlives its document by thousands of others.
        itself = proxy(self)
        self.readers = ByClass(partial(reader, itself))
        self.wanters = ByClass(partial(wanter, itself), otherwise=ignore)


@dataclass(slots=True)
class Selection:
    """What is selected of objects."""

    read: Function
    want: Function
    loads: bool


@dataclass(slots=True)
class ByType:
    """Functions by the name of a type, for rows of which each tells its own."""

    functions: Mapping[str, ByClass]
    type_name: Callable[[Any], Any]

    def __call__(self, rows: Sequence[Any], reading: Reading) -> Sequence[Any]:
        return [each for row in rows for each in self.functions[self._name(row)]([row], reading)]

    def _name(self, row: Any) -> Any:
        if row is None or isinstance(row, Exception) or is_awaitable(row):
            raise NotPlain
        return self.type_name(row)


class Plans:
    """The plans of an operation, with just what its variables select of it."""

    def __init__(
        self,
        schema: GraphQLSchema,
        type_resolver: Callable[[Any, Any, Any], Any],
        kept: KeptPlans,
        forget: Callable[[], object],
    ) -> None:
        self.loading: list[Step] = []  # those that are loaded, by their places
        self.forget = forget  # by whom they are found; whoever executes them has them still
        self._kept = kept
        self._schema = schema
        self._type_resolver = type_resolver
        self._plans: dict[Any, Plan] = {}

    def plan(self, parent: GraphQLObjectType, fields: Fields, collect: Collect) -> Plan:
        # Its nodes are the document's, and so as long there as this is.
        key = (parent.name, *(id(each.node) for details in fields.values() for each in details))
        if key not in self._plans:
            found = [self._step(parent, name, details, collect) for name, details in fields.items()]
            steps = [step for step in found if step is not None]
            loading = [step for step in steps if isinstance(step.source, Loaded) or step.loads_below]
            left = frozenset(fields) - {step.name for step in steps}
            self._plans[key] = Plan(parent, list(fields), steps, loading, left)
            self._kept.grow(self, len(fields))
        return self._plans[key]

    def _step(self, parent: GraphQLObjectType, name: str, details: list[FieldDetails], collect: Collect) -> Step | None:
        """None for a field that graphql-core executes."""
        definition = self._schema.get_field(parent, details[0].node.name.value)
        if definition is TypeNameMetaFieldDef:
            return Step(name, typename=parent.name)
        if definition is None or (source := source_of(definition)) is None:
            return None
        leaf = leaf_of(definition.type)
        if leaf is not None:
            return self._placed(Step(name, source, leaf))
        shape = _shape(definition.type)
        below = self._selection(get_named_type(definition.type), details, collect)
        return self._placed(Step(name, source, below=below, shape=shape)) if below and shape in _SHAPES else None

    def _placed(self, step: Step) -> Step:
        if isinstance(step.source, Loaded):
            step.place = len(self.loading)
            self.loading.append(step)
        return step

    def _selection(self, type_: GraphQLNamedType, details: list[FieldDetails], collect: Collect) -> Selection | None:
        """None where graphql-core executes something of it."""
        info = TypeInfo(self._schema, details[0].node.name.value)
        possible = self._schema.get_possible_types(type_) if is_abstract_type(type_) else [type_]
        plans = {}
        for each in cast("Sequence[GraphQLObjectType]", possible):
            collected = collect(each, details)
            plan = plans[each.name] = self.plan(each, collected.grouped_field_set, collect)
            if collected.new_defer_usages or plan.left:
                return None
        readers = {name: ByClass(partial(reader, plan, info=info)) for name, plan in plans.items()}
        wanters = {name: plan.wanters for name, plan in plans.items()}
        loads = any(plan.loading for plan in plans.values())
        if not is_abstract_type(type_):
            return Selection(readers[type_.name], wanters[type_.name], loads)
        name = self._name_of(type_, info)
        return Selection(ByType(readers, name), ByType(wanters, name), loads)

    def _name_of(self, type_: GraphQLAbstractType, info: Any) -> Callable[[Any], Any]:
        """What tells the type of a row."""
        resolve = type_.resolve_type or self._type_resolver
        return lambda row: resolve(row, info, type_)


def _shape(type_: GraphQLOutputType) -> str:
    """Of objects, from the outside in."""
    if not is_non_null_type(type_):
        return "?" + _shape(GraphQLNonNull(cast("Any", type_)))
    return "[" + _shape(type_.of_type.of_type) if is_list_type(type_.of_type) else ""


def wanted(reading: Reading) -> Wanted:
    """The keys that loaders have yet to bring: of what was read so far, and of what is below that and there already."""
    missing: Wanted = {}
    looked = True
    while looked:
        looked = False
        for keys, answers in zip(reading.wanted, reading.answers, strict=True):
            keys.discard(None)
            if unknown := keys.difference(answers.loader.found):
                missing.setdefault(answers.loader, set()).update(unknown)
            if answers.step.loads_below:
                for key in keys - unknown - answers.looked_below:
                    looked = True
                    answers.looked_below.add(key)
                    _want_below(answers.step, answers.loader.found[key], reading)
    return missing


def _want_below(step: Step, value: Any, reading: Reading) -> None:
    assert step.below is not None
    with suppress(Exception):  # a row that isn't what it should be: its fields will tell
        rows = value if "[" in step.shape else [value]
        step.below.want([row for row in rows if row is not None], reading)


class KeptPlans:
    """All of a schema, those used last, up to so many steps: fragments make many of few tokens."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._used: OrderedDict[ReferenceType[Plans], int] = OrderedDict()  # weakly: they go with their documents
        self._steps = 0

    def use(self, plans: Plans) -> None:
        reference = ref(plans, self._gone)  # equal to each other one to the same
        self._used.setdefault(reference, 0)
        self._used.move_to_end(reference)

    def grow(self, plans: Plans, steps: int) -> None:
        if (reference := ref(plans)) not in self._used:
            return  # only who executes them has them
        self._used[reference] += steps
        self._steps += steps
        while self._steps > self._most and len(self._used) > 1:
            oldest = next(iter(self._used))
            self._gone(oldest)
            if dropped := oldest():
                dropped.forget()

    def _gone(self, reference: ReferenceType[Plans]) -> None:
        self._steps -= self._used.pop(reference, 0)


class ByValues(dict[Any, Plans]):
    """Those of an operation, by the values of the variables that select."""

    __slots__ = ("__weakref__",)


def _forgetter(plans: ByValues, key: Any) -> Callable[[], object]:
    """Weakly, too, else they were a circle."""
    holder = ref(plans)
    return lambda: (found := holder()) and found.pop(key, None)


_CONDITIONS: Final = frozenset({"skip", "include"})
_KEPT: Final = "_heirloom_plans"


def plans_of(
    operation: OperationDefinitionNode,
    fragments: Mapping[str, FragmentDefinitionNode],
    variables: Mapping[str, Any],
    schema: GraphQLSchema,
    type_resolver: Callable[[Any, Any, Any], Any],
) -> Plans:
    """Kept with the operation, as long as they are among those that the schema keeps."""
    of_all: KeptPlans = schema.extensions.setdefault(_KEPT, KeptPlans(MOST_STEPS))
    kept: tuple[Sequence[str], ByValues] | None = vars(operation).get(_KEPT)
    if kept is None:
        kept = vars(operation)[_KEPT] = (_deciding(operation, fragments), ByValues())
    deciding, by_values = kept
    key = (schema, type_resolver, *(variables.get(name) for name in deciding))
    if key not in by_values:
        if len(by_values) >= MOST_SELECTIONS:
            by_values.clear()
        by_values[key] = Plans(schema, type_resolver, of_all, _forgetter(by_values, key))
    of_all.use(by_values[key])
    return by_values[key]


def _deciding(operation: OperationDefinitionNode, fragments: Mapping[str, FragmentDefinitionNode]) -> list[str]:
    """The variables by which fields are skipped or included, anywhere in the document."""
    found: set[str] = set()
    ahead: list[Any] = [operation, *fragments.values()]
    while ahead:
        node = ahead.pop()
        for directive in node.directives or ():
            found |= _variables(directive)
        if below := getattr(node, "selection_set", None):
            ahead += below.selections
    return sorted(found)


def _variables(directive: DirectiveNode) -> set[str]:
    if directive.name.value not in _CONDITIONS:
        return set()
    return {each.value.name.value for each in directive.arguments or () if isinstance(each.value, VariableNode)}
