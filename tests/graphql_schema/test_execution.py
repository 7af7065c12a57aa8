"""The executor of plain fields answers as graphql-core's own does: the same data, the same errors at the same paths."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import uuid
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache, partial
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
import strawberry
from graphql import (
    DocumentNode,
    GraphQLError,
    GraphQLObjectType,
    GraphQLSchema,
    get_named_type,
    is_abstract_type,
    is_composite_type,
    parse,
    validate,
)
from strawberry.extensions import SchemaExtension
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext
from strawberry.types import ExecutionContext, ExecutionResult

from graphql_schema.execution import PlainFieldsExecutor
from graphql_schema.loaders import Loader, loaded
from graphql_schema.plans import KeptPlans, Plan, Plans
from tests.graphql_schema.generated import null_above

# Where something fails, graphql-core cancels its siblings before they have begun, and nobody awaits what those would
# have awaited: under either executor.
pytestmark = [
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

CASES = 500 if os.environ.get("HYPOTHESIS_PROFILE") == "fuzz" else 20
ROWS = 4
VARIABLES = {"yes": "Boolean! = true", "no": "Boolean! = false", "by": "Int! = 1"}
VALUES: list[dict[str, Any]] = [{}, {"yes": False, "no": True}, {"yes": False, "by": 0}, {"no": True, "by": 2}]
LOADED = ("friend", "friends")
SHORT = 150  # characters of a fragment that is spread at several places
FRAGMENT_CHANCE, ALIAS_CHANCE, DIRECTIVE_CHANCE, AGAIN_CHANCE, INTROSPECTION_CHANCE = 0.3, 0.2, 0.15, 0.2, 0.1


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@strawberry.interface
class Thing:
    id: strawberry.ID
    name: str

    @strawberry.field
    def shout(self, root: strawberry.Parent[Any]) -> str:
        return str(root.name.upper())


def poisoned(value: Any) -> Any:
    """What a resolver gives, raises, or has still to wait for."""
    if isinstance(value, Failing):
        raise ValueError(value.why)  # noqa: TRY004 - what a resolver may raise
    return value


@strawberry.type
class Row(Thing):
    count: int
    maybe: int | None
    ratio: float | None
    flag: bool
    colour: strawberry.enum(Colour)  # type: ignore[valid-type]
    tags: list[str]
    numbers: list[int | None] | None
    at: datetime | None
    inner: Row | None
    below: list[Row | None]
    strict: list[Row]
    grid: list[list[int | None]] | None
    nested: list[list[Row]]
    things: list[Thing | None]
    either: Either | None
    eithers: list[Either]

    @classmethod
    def is_type_of(cls, value: Any, _info: Any) -> bool:
        return getattr(value, "kind", None) == "row"

    @strawberry.field
    def read(self, root: strawberry.Parent[Any]) -> str | None:
        return poisoned(root.secret)  # type: ignore[no-any-return]

    @strawberry.field
    def needed(self, root: strawberry.Parent[Any], info: strawberry.Info) -> str:
        assert info.path.key in (info.path.key, "needed")
        return f"{'/'.join(map(str, info.path.as_list()))} {info.python_name} {poisoned(root.secret)}"

    @strawberry.field
    async def later(self, root: strawberry.Parent[Any]) -> str | None:
        return poisoned(root.secret)  # type: ignore[no-any-return]

    @strawberry.field
    def children(self, root: strawberry.Parent[Any]) -> list[Row]:
        return poisoned(root.children)  # type: ignore[no-any-return]

    @strawberry.field
    def times(self, root: strawberry.Parent[Any], by: int = 2) -> int:
        return root.count * by  # type: ignore[no-any-return]

    @strawberry.field(metadata=loaded(lambda loaders: loaders.rows, "friend"))  # type: ignore[untyped-decorator, attr-defined]
    async def friend(self, root: strawberry.Parent[Any], info: strawberry.Info) -> Row | None:
        return await info.context.loaders.rows.load(root.friend) if root.friend else None

    @strawberry.field(metadata=loaded(lambda loaders: loaders.lists, "label"))  # type: ignore[untyped-decorator, attr-defined]
    async def friends(self, root: strawberry.Parent[Any], info: strawberry.Info) -> list[Row]:
        return await info.context.loaders.lists.load(root.label)  # type: ignore[no-any-return]

    @strawberry.field
    def thing(self, root: strawberry.Parent[Any]) -> Thing | None:
        return root.thing  # type: ignore[no-any-return]


@strawberry.type
class Other(Thing):
    @classmethod
    def is_type_of(cls, value: Any, _info: Any) -> bool:
        return getattr(value, "kind", None) == "other"


Either = Annotated[Row | Other, strawberry.union("Either")]


@strawberry.type
class Query:
    @strawberry.field
    def rows(self, info: strawberry.Info) -> list[Row | None]:
        return info.context.rows  # type: ignore[no-any-return]

    @strawberry.field
    async def strict(self, info: strawberry.Info) -> list[Row]:
        return info.context.rows  # type: ignore[no-any-return]

    @strawberry.field
    def row(self, info: strawberry.Info) -> Row | None:
        return info.context.rows[0]  # type: ignore[no-any-return]

    @strawberry.field
    def things(self, info: strawberry.Info) -> list[Thing | None] | None:
        return [row.thing for row in info.context.rows if hasattr(row, "thing")]

    @strawberry.field
    def either(self, info: strawberry.Info) -> Either | None:
        return info.context.rows[-1]  # type: ignore[no-any-return]


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def row(self, info: strawberry.Info) -> AsyncGenerator[Row | None, None]:
        for row in info.context.rows:
            yield row


class SameDocument(SchemaExtension):
    def on_parse(self) -> Iterator[None]:
        assert self.execution_context.query is not None
        self.execution_context.graphql_document = parsed(self.execution_context.query)
        self.execution_context.pre_execution_errors = []
        yield


@lru_cache(maxsize=1)
def parsed(text: str) -> DocumentNode:
    document = parse(text)
    assert validate(STOCK._schema, document) == []
    return document


class QuietSchema(strawberry.Schema):
    def process_errors(self, errors: list[GraphQLError], execution_context: ExecutionContext | None = None) -> None:
        """Stock prints each with its traceback."""


STOCK, OURS = (
    # As the edge has it: what is executed again is the same document, with all that was found out about it.
    QuietSchema(
        Query,
        subscription=Subscription,
        types=[Row, Other],
        execution_context_class=executor,
        extensions=[SameDocument],
    )
    for executor in (StrawberryGraphQLCoreExecutionContext, PlainFieldsExecutor)
)


@pytest.fixture(autouse=True)
def leave_nothing() -> Iterator[None]:
    """What nobody awaits is found here, not in another test."""
    yield
    gc.collect()


OTHER = SimpleNamespace(kind="other", id="9", name="o")


@dataclass
class Failing:
    why: str


class WithProperty(SimpleNamespace):
    """`name` is not in its dictionary, and can't always be read."""

    @property
    def name(self) -> str:
        return str(poisoned(self.hidden))


@dataclass(slots=True)
class Slotted:
    """No dictionary, and most attributes missing."""

    id: Any
    name: Any
    kind: str = "row"
    count: Any = 1
    secret: Any = "s"
    friend: Any = None


class Maker:
    """Rows of which some values are not what the schema says."""

    def __init__(self, seed: int, poison: float) -> None:
        self.random = random.Random(seed)
        self.poison = poison
        self.made: dict[str, Any] = {}

    def either(self, plain: list[Any], poisonous: list[Any]) -> Any:
        return self.random.choice(poisonous if self.random.random() < self.poison else plain)

    def row(self, depth: int = 2) -> Any:
        chance = self.random.random()
        if chance < self.poison / 5:
            return self.random.choice([None, ValueError("a row"), 17, "row", SimpleNamespace(kind="other", id="1")])
        if chance < self.poison / 3:
            return Slotted(self.random.randrange(9), "slotted")
        values = self.values(depth)
        if self.random.random() < 0.2:
            made: Any = WithProperty(**values, hidden=self.either(["seen"], [Failing("hidden")]))
            return made
        made = SimpleNamespace(**values, name=self.either(["Ada", "", "é"], [None, 7, b"x", ValueError("name")]))
        if self.random.random() < self.poison / 4:
            del made.__dict__[self.random.choice(["count", "maybe", "tags", "at", "secret", "friend", "inner"])]
        return made

    def values(self, depth: int) -> dict[str, Any]:
        either = self.either
        plain = [self.row(depth - 1) for _ in range(self.random.randrange(ROWS))] if depth else []
        kept = [row for row in plain if getattr(row, "kind", None) == "row"]
        return {
            "label": either(["1", "2"], [None, []]),
            "kind": either(["row"], ["row", "other"]),
            "id": either(["1", uuid.UUID(int=5), 3], [None, True, 2.5, b"1", "2"]),
            "count": either([1, 0, -(2**30)], [None, True, 2**31, 1.0, 1.5, "12", "x"]),
            "maybe": either([1, None], [False, "1", [], ValueError("maybe")]),
            "ratio": either([0.5, None], [1, float("nan"), float("inf"), "0.25", True]),
            "flag": either([True, False], [None, 1, "true"]),
            "colour": either(["red", "blue", Colour.RED], [None, "green", 3, [], Colour]),
            "tags": either([[], ["a", "b"]], [None, ["a", None], ("a",), "ab", [1, True], {"a": 1}]),
            "numbers": either([[1, None], None], [[2**40], 5, (1, 2), [1, "x"]]),
            "at": either([datetime(2024, 1, 1, tzinfo=UTC), None], ["2024", 3]),
            "secret": either(["s", "7", None], [Failing("secret"), 4, [], KeyError("secret")]),
            "inner": self.row(depth - 1) if depth and self.random.random() < 0.5 else None,
            "below": plain,
            "strict": plain if self.random.random() < self.poison else kept,
            "children": either([kept, tuple(kept)], [plain, None, Failing("children"), "rows"]),
            "friend": either(["1", "2", None], ["broken", [], 5]),
            "grid": either([[[1, None], []], None], [[None], [1], [[2**31]], ((1,),), [["x"]]]),
            "nested": either([[kept[:1], []], []], [[plain], kept, [None], None]),
            "things": either([[*kept[:1], OTHER, None], []], [[SimpleNamespace(kind="?")], [1], None, (OTHER,)]),
            "either": either([OTHER, None, *kept[:1]], [ValueError("either"), "other", SimpleNamespace(kind="?")]),
            "eithers": either([[*kept[:1], OTHER], []], [[None], [OTHER, 7], OTHER, ValueError("eithers")]),
            "thing": either([None, OTHER, *kept[:1]], [SimpleNamespace(kind="?", id=1)]),
        }

    def context(self) -> Any:
        rows = [self.row() for _ in range(ROWS)]
        friends = {"1": self.row(1), "2": self.row(1)}

        async def one_each(keys: list[Any]) -> dict[Any, Any]:
            if "broken" in keys:
                raise LookupError("friends")
            return {key: friends.get(key) for key in keys}

        async def many_each(keys: list[Any]) -> dict[Any, Any]:
            return {key: [row for row in friends.values() if getattr(row, "kind", None) == "row"] for key in keys}

        return lambda: SimpleNamespace(
            rows=rows, stock=False, loaders=SimpleNamespace(rows=Loader(one_each), lists=Loader(many_each))
        )


@dataclass
class Asker:
    """Documents over a schema: fields by other names and again, fragments of all kinds, conditions, arguments."""

    schema: GraphQLSchema
    random: random.Random
    depth: int = 3
    without: tuple[str, ...] = ()
    fragments: list[tuple[str, str, str]] = field(default_factory=list)  # name, type, text
    disguised: dict[str, str] = field(default_factory=dict)  # fields that bear a name which is that of another

    def document(self, root: GraphQLObjectType, kind: str = "query") -> str:
        shown, hidden = self.random.sample(["count", "maybe", "ratio", "flag", "colour", "tags", "at", "read"], 2)
        self.disguised = {shown: hidden}
        self.without = (*self.without, hidden)
        if kind == "subscription":  # of which one root field is all
            name, definition = self.random.choice(list(root.fields.items()))
            body = f"{{ {name} {self.selection(get_named_type(definition.type), self.depth)} }}"
        else:
            body = self.selection(root, self.depth, self.introspection())
        whole = f"{body} {' '.join(text for _, _, text in self.fragments)}"
        used = [f"${name}: {declared}" for name, declared in VARIABLES.items() if f"${name})" in whole]
        declared = f"({' '.join(used)})" if used else ""
        return f"{kind} {declared} {whole}"

    def introspection(self) -> str:
        if self.random.random() > INTROSPECTION_CHANCE:
            return ""
        return '__schema { queryType { name fields { name } } } __type(name: "Row") { __typename kind }'

    def selection(self, type_: Any, depth: int, besides: str = "") -> str:
        fields = getattr(type_, "fields", {})  # a union has none
        candidates = [name for name in fields if name not in self.without]
        candidates = [name for name in candidates if depth > 0 or not self._composite(type_, name)]
        chosen = self.random.sample(candidates, min(len(candidates), self.random.randint(1, 6)))
        # Asked for twice, a field has what both ask of it.
        chosen += [name for name in chosen if self.random.random() < AGAIN_CHANCE]
        parts = ["__typename", besides, *(self.one(type_, name, depth) for name in chosen)]
        if is_abstract_type(type_):
            possible = self.random.choice(list(self.schema.get_possible_types(type_)))
            parts.append(f"... on {possible.name} {self.selection(possible, depth - 1)}")
        elif type_.interfaces and self.random.random() < FRAGMENT_CHANCE:
            parts.append(f"... on {type_.interfaces[0].name}{self.directive()} {{ id name }}")
        known = [name for name, of, text in self.fragments if of == type_.name and len(text) < SHORT]
        if known and self.random.random() < AGAIN_CHANCE:
            parts.append(f"...{self.random.choice(known)}")
        self.random.shuffle(parts)
        return f"{{ {' '.join(parts)} }}"

    def one(self, type_: Any, name: str, depth: int) -> str:
        definition = type_.fields[name]
        below = get_named_type(definition.type)
        selection = self.selection(below, depth - 1) if is_composite_type(below) else ""
        told = f"{self.called(name, takes=bool(definition.args))}{self.directive()} {selection}"
        if self.random.random() > FRAGMENT_CHANCE:
            return told
        if self.random.random() < 0.5:
            return f"... on {type_.name}{self.directive()} {{ {told} }}"
        fragment = f"F{len(self.fragments)}"
        self.fragments.append((fragment, type_.name, f"fragment {fragment} on {type_.name} {{ {told} }}"))
        return f"...{fragment}{self.directive()}"

    def called(self, name: str, *, takes: bool) -> str:
        """The field, perhaps by another name, which no other field of the document has, nor with other arguments."""
        if takes:
            return self.random.choice([name, f"once: {name}(by: 1)", f"often: {name}(by: $by)"])
        if name in self.disguised:
            return f"{self.disguised[name]}: {name}"
        alias = f"a{self.random.randrange(10**6)}: " if self.random.random() < ALIAS_CHANCE else ""
        return f"{alias}{name}"

    def directive(self) -> str:
        if self.random.random() > DIRECTIVE_CHANCE:
            return ""
        conditions = [
            "@skip(if: $no)",
            "@skip(if: $yes)",
            "@include(if: $yes)",
            "@include(if: $no)",
            "@include(if: true)",
        ]
        first, second = self.random.sample(conditions, 2)
        both = self.random.random() < 0.2 and first[:5] != second[:5]
        return f" {first} {second}" if both else f" {first}"

    def _composite(self, type_: Any, name: str) -> bool:
        return is_composite_type(get_named_type(type_.fields[name].type))


def told(result: Any) -> tuple[Any, list[Any]]:
    """The data, and the errors in an order of their own: those that come from awaited siblings have none."""
    assert isinstance(result, ExecutionResult)
    errors = [(error.path or [], error.message, error.locations) for error in result.errors or []]
    return result.data, sorted(errors, key=str)


def explained(answer: tuple[Any, list[Any]]) -> tuple[Any, set[str], list[Any]]:
    """The data, where it is null for an error, and the errors of fields that are null themselves.

    Of several errors that would make the same object null, it is chance which are told: of awaited siblings, the first
    that fails cancels the others.
    """
    data, errors = answer
    own = [error for error in errors if null_above(data, error[0]) == error[0]]
    return data, {str(null_above(data, path)) for path, _, _ in errors}, own


def cases(poison: float, *, without: tuple[str, ...] = ()) -> Iterator[tuple[int, str, dict[str, Any], Any]]:
    """Each document with several values of its variables, and of other rows: what was found out of it is kept."""
    graphql = OURS._schema  # what Strawberry made of it
    assert graphql.query_type is not None
    for seed in range(CASES):
        asker = Asker(graphql, random.Random(seed), without=without)
        document = asker.document(graphql.query_type)
        for turn, values in enumerate(VALUES):
            given = {name: value for name, value in values.items() if f"${name})" in document}
            if turn == 0 or given:
                yield seed, document, given, Maker(seed * len(VALUES) + turn, poison).context()


@pytest.mark.parametrize("poison", [0.0, 0.03, 0.3])
async def test_generated_queries_are_answered_as_by_the_stock_executor(poison: float) -> None:
    asked = with_errors = 0
    for seed, document, values, context in cases(poison, without=LOADED):
        stock, ours = [told(await schema.execute(document, values, context())) for schema in (STOCK, OURS)]
        assert (seed, values, ours) == (seed, values, stock), document
        assert stock[0] is not None or poison
        asked += 1
        with_errors += bool(stock[1])
    # Neither is all of it trivial, nor all of it an error.
    assert with_errors == 0 if poison == 0 else with_errors > asked / 20


@pytest.mark.parametrize("poison", [0.0, 0.03, 0.3])
async def test_what_loaders_bring_is_answered_as_by_the_stock_executor(poison: float) -> None:
    # There at once instead of awaited, it may fail before a sibling that would have failed first.
    for seed, document, values, context in cases(poison):
        stock, ours = [explained(told(await schema.execute(document, values, context()))) for schema in (STOCK, OURS)]
        assert (seed, values, ours) == (seed, values, stock), document


async def test_a_subscription_is_answered_as_by_the_stock_executor() -> None:
    events = 0
    for seed in range(CASES // 5):
        graphql = OURS._schema
        assert graphql.subscription_type is not None
        document = Asker(graphql, random.Random(seed)).document(graphql.subscription_type, "subscription")
        context = Maker(seed, 0.05).context()
        streams = [await schema.subscribe(document, context_value=context()) for schema in (STOCK, OURS)]
        stock, ours = [[explained(told(event)) async for event in stream] for stream in streams]
        assert (seed, ours) == (seed, stock), document
        events += len(ours)
    assert events == ROWS * (CASES // 5)


async def test_what_was_planned_goes_with_its_document() -> None:
    document = "{ rows { id inner { name } } }"
    parsed.cache_clear()
    gc.collect()
    others = plans()
    await OURS.execute(document, context_value=Maker(1, poison=0).context()())
    gc.collect()
    gc.disable()  # which is as good as what it does with objects that have been there for long
    try:
        assert plans() == others + 2
        parsed.cache_clear()
        assert plans() == others
    finally:
        gc.enable()


def plans() -> int:
    return sum(type(each) is Plan for each in gc.get_objects())  # not isinstance: a proxy says it is one


class Counting(PlainFieldsExecutor):
    """Counts the fields that graphql-core executes."""

    executed: list[str]

    def execute_field(self, parent_type: Any, source: Any, details: Any, *rest: Any) -> Any:
        self.executed.append(details[0].node.name.value)
        return super().execute_field(parent_type, source, details, *rest)


async def test_what_is_plain_is_never_seen_by_graphql_core_and_loaders_are_asked_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    schema = strawberry.Schema(Query, types=[Row, Other], execution_context_class=Counting)
    monkeypatch.setattr(Counting, "executed", [], raising=False)
    context = Maker(1, poison=0).context()()
    asked: list[list[Any]] = []

    async def ask(keys: list[str]) -> dict[str, Any]:
        asked.append(sorted(keys))
        return {key: SimpleNamespace(id=key, name=f"friend {key}", kind="row", friend="3") for key in keys}

    context.loaders.rows = Loader(ask)
    context.rows = [
        SimpleNamespace(
            id=str(index),
            kind="row",
            friend=friend,
            thing=SimpleNamespace(kind="other", id="9", name="o"),
            children=[SimpleNamespace(kind="row", id="7", friend="4")],
        )
        for index, friend in enumerate(["1", "2", None, "1"])
    ]
    inner = "__typename id friend { name friend { id } }"
    answer = await schema.execute(
        f"{{ rows {{ {inner} thing {{ id shout }} children {{ {inner} }} }} }}", context_value=context
    )
    assert not answer.errors
    third = {"id": "3"}
    below = {"__typename": "Row", "id": "7", "friend": {"name": "friend 4", "friend": third}}
    assert answer.data == {
        "rows": [
            {
                "__typename": "Row",
                "id": str(index),
                "friend": friend and {"name": f"friend {friend}", "friend": third},
                "thing": {"id": "9", "shout": "O"},
                "children": [below],
            }
            for index, friend in enumerate(["1", "2", None, "1"])
        ]
    }
    assert asked == [["1", "2", "4"], ["3"]]
    assert Counting.executed == ["rows"]


async def test_what_a_loader_brings_after_it_was_cleared_is_not_remembered() -> None:
    answers = iter(["old", "new"])
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def fetch(keys: list[str]) -> dict[str, str]:
        answer = next(answers)
        begun.set()
        await go_on.wait()
        return dict.fromkeys(keys, answer)

    loader = Loader(fetch)
    waiting = asyncio.ensure_future(loader.load("key"))
    await begun.wait()
    loader.clear_all()
    again = asyncio.ensure_future(loader.load("key"))
    go_on.set()
    assert [await waiting, await again, await loader.load("key")] == ["old", "new", "new"]


async def test_a_batch_that_fails_fails_for_all_who_wait_and_is_asked_for_again() -> None:
    asked: list[list[str]] = []

    async def fetch(keys: list[str]) -> dict[str, str]:
        asked.append(keys)
        if len(asked) == 1:
            raise LookupError("gone")
        return dict.fromkeys(keys, "there")

    loader = Loader(fetch)
    waiting = asyncio.ensure_future(loader.load("a"))
    await asyncio.sleep(0)
    (batch,) = loader.batches(["a", "b"])
    failures = await asyncio.gather(waiting, batch, return_exceptions=True)
    assert [str(failure) for failure in failures] == ["gone", "gone"]
    assert "a" not in loader.found
    assert [*await asyncio.gather(loader.load("b"), loader.load("a"))] == ["there", "there"]
    assert asked == [["a", "b"], ["b", "a"]]


async def test_a_loader_that_leaves_out_a_key_fails_where_it_is_asked() -> None:
    async def bring_nothing(_: list[Any]) -> dict[Any, Any]:
        return {}

    context = Maker(1, poison=0).context()()
    context.rows = [SimpleNamespace(kind="row", id="1", friend="2")]
    context.loaders.rows = Loader(bring_nothing)
    async with asyncio.timeout(10):
        result = await OURS.execute("{ rows { id friend { id } } }", context_value=context)
    assert result.errors
    assert [error.path for error in result.errors] == [["rows", 0, "friend"]]


async def test_what_an_operation_has_read_is_gone_with_its_answer() -> None:
    # In a circle it would wait for the garbage collector, which then takes an eighth of the time of a page.
    context = Maker(1, poison=0).context()
    document = "{ rows { id count tags friend { name friend { id } } friends { id } inner { id thing { id } } } }"
    assert not (await OURS.execute(document, context_value=context())).errors
    gc.collect()
    gc.disable()
    try:
        answer: Any = await OURS.execute(document, context_value=context())
        assert len(answer.data["rows"]) == ROWS
        del answer
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_plans_are_kept_up_to_so_many_steps() -> None:
    kept = KeptPlans(most=10)
    forgotten: list[str] = []
    first, second, third = (
        Plans(OURS._schema, str, kept, partial(forgotten.append, name)) for name in ("first", "second", "third")
    )
    for plans in (first, second, first):
        kept.use(plans)
    kept.grow(first, 4)
    kept.grow(second, 4)
    kept.use(third)
    assert forgotten == []
    kept.grow(third, 4)
    assert forgotten == ["second"]  # the first has been used since
    kept.grow(second, 20)  # by who executes it still
    assert forgotten == ["second"]
    kept.grow(third, 20)
    assert forgotten == ["second", "first"]  # and what is used stays, however large it is
