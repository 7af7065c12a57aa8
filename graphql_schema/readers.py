"""Python written for a selection: a function that makes the answers of rows, one that tells what loaders must bring.

A page of the library has 4,000 fields. Stepping through a list of what to do for each takes 1.5 µs a field, nearly all
of it for the stepping; what is written here takes a tenth, as if somebody had written it by hand. It is written for
many rows, and one is read as a list of one: calls for each would take a quarter of the time.

What stands in the text comes from the schema, or is a literal made by `repr`. All else is handed over by a name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from itertools import chain, islice
from types import CoroutineType, GeneratorType, NoneType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from piccolo.columns import Column
from piccolo.table import Table

from app.db import Fetched
from graphql_schema.leaves import Leaf, NotPlain, plain_list
from graphql_schema.loaders import Loaded
from graphql_schema.sources import Attribute, ContextOnly, Signed, Source

if TYPE_CHECKING:
    from graphql_schema.plans import Plan, Step

Function: TypeAlias = Callable[[Sequence[Any], "Reading"], Sequence[Any]]  # of rows, something for each

_NO_OBJECTS: Final = (NoneType, BaseException, GeneratorType, CoroutineType)


class Reading:
    """What is known while one object is read, with all that is below it."""

    __slots__ = ("_urls", "answers", "info", "wanted")

    def __init__(self, loading: Sequence[Step], context: Any) -> None:
        self.info = ContextOnly(context)
        self.wanted: list[set[Any]] = [set() for _ in loading]
        self.answers = [Answers(step, self, keys) for step, keys in zip(loading, self.wanted, strict=True)]
        self._urls: Mapping[str | tuple[str, str], str] | None = None

    @property
    def urls(self) -> Mapping[str | tuple[str, str], str]:
        """Those of this moment, as all that is read here: nothing is waited for meanwhile."""
        if self._urls is None:
            self._urls = self.info.context.services.storage.presigned(datetime.now(UTC))
        return self._urls


class Answers(dict[Any, Any]):
    """What stands for the rows that a loader has brought, by its keys: read once, however many rows refer to it."""

    __slots__ = ("_reading", "_wanted", "loader", "looked_below", "step")

    def __init__(self, step: Step, reading: Reading, wanted: set[Any]) -> None:
        super().__init__()
        assert isinstance(step.source, Loaded)
        self.loader = step.source.loader(reading.info.context.loaders)
        self.looked_below: set[Any] = set()
        self.step = step
        self._reading = reading
        self._wanted = wanted

    def __missing__(self, key: Any) -> Any:
        """All that are wanted, the first time. Raises KeyError for what isn't there yet, and NotPlain."""
        keys = [*self._wanted] if key in self._wanted else [key]
        rows = [None if each is None else self.loader.found[each] for each in keys]
        self.update(zip(keys, self.step.completed(rows, self._reading), strict=True))
        return self[key]


def refuse(_rows: Sequence[Any], _reading: Reading) -> Sequence[Any]:
    raise NotPlain


def ignore(_rows: Sequence[Any], _reading: Reading) -> Sequence[Any]:
    return ()


class ByClass(dict[type, Function]):
    """One function for each class of rows, which tells how their attributes are had: written when it is first met."""

    def __init__(self, write: Callable[[type], Function], otherwise: Function = refuse) -> None:
        super().__init__()
        self._write = write
        self._otherwise = otherwise  # for what is no object

    def __missing__(self, kind: type) -> Function:
        is_object = not issubclass(kind, _NO_OBJECTS) and not hasattr(kind, "__await__")
        made = self[kind] = self._write(kind) if is_object else self._otherwise
        return made

    def __call__(self, rows: Sequence[Any], reading: Reading) -> Sequence[Any]:
        """Of rows of any classes. Nearly always it is one."""
        kinds = {*map(type, rows)}
        if len(kinds) == 1:
            return self[kinds.pop()](rows, reading)
        return [each for row in rows for each in self[type(row)]([row], reading)]


@dataclass(slots=True)
class Writing:
    """A function in the making, and what the names in it stand for. Its arguments are `rows` and `at`, a Reading."""

    kind: type = object  # of all rows
    names: dict[str, Any] = field(default_factory=dict)
    before: dict[str, str] = field(default_factory=dict)  # by name what is found once, whatever the rows
    beside: dict[str, str] = field(default_factory=dict)  # by name a list that has something for each row
    variables: int = 0

    def function(self, lines: Sequence[str]) -> Function:
        before = [f"{name} = {meant}" for name, meant in self.before.items()]
        text = "\n    ".join(["def written(rows, at):", "info = at.info", *before, *lines])
        exec(compile(text, "<a selection>", "exec"), self.names)  # noqa: S102 - see above where its words are from
        function: Function = self.names.pop("written")
        return function

    def name(self, meant: Any) -> str:
        name = f"k{len(self.names)}"
        self.names[name] = meant
        return name

    def variable(self) -> str:
        self.variables += 1
        return f"v{self.variables}"

    def of_each(self, told: str, *beside: str) -> str:
        """A list of what is told of one row, of itself and of what lies beside it."""
        each = f"{', '.join(['row', *beside])} in zip({', '.join(['rows', *(self.beside[name] for name in beside)])})"
        loop = f"for {each}" if beside else "for row in rows"
        # Piccolo's descriptors look there, too, and take ten times as long.
        return f"[{told} {loop}{' for fields in (row.__dict__,)' if issubclass(self.kind, Table) else ''}]"

    def attribute(self, name: str) -> str:
        if issubclass(self.kind, Fetched) and name in self.kind.places:
            return f"row[{self.kind.places[name]}]"
        return f"fields[{name!r}]" if name in _columns(self.kind) else f"row.{name}"

    def value(self, source: Source) -> str:
        """What tells a field's value, where no loader does."""
        if isinstance(source, Attribute):
            return self.attribute(source.name)
        if isinstance(source, Signed):
            return self._url(source)
        assert not isinstance(source, Loaded)
        return f"{self.name(source.function)}({source.arguments})"

    def _url(self, source: Signed) -> str:
        self.before["urls"] = "at.urls"
        filename = f", {self.attribute(source.filename)}" if source.filename else ""
        url = f"urls[{self.attribute(source.key)}{filename}]"
        return f"({url} if {self.name(source.known)}(row) else None)" if source.known else url

    def loaded(self, step: Step, key: str) -> str:
        name = f"answers{step.place}"
        self.before[name] = f"at.answers[{step.place}]"
        return f"{name}[{key}]"

    def answer(self, step: Step, value: str) -> str:
        """What stands for a field's value in the answer."""
        if isinstance(step.source, Signed):
            return value  # a text
        if step.leaf is not None:
            return self._column(step.leaf, step.source) or self._leaf(step.leaf, value)
        assert step.below is not None
        return self._objects(self.name(step.below.read), step.shape, value)

    def _column(self, leaf: Leaf, source: Source | None) -> str:
        """Without a look at it, where what PostgreSQL has is plain by its type."""
        table = self.kind.table if issubclass(self.kind, Fetched) else None
        if table is None or not isinstance(source, Attribute) or source.name not in _columns(table):
            return ""
        column = _columns(table)[source.name]
        if column._meta.null and not leaf.may_be_null:
            return ""
        return leaf.of_columns.get(type(column), "").format(self.attribute(source.name))

    def _leaf(self, leaf: Leaf, value: str) -> str:
        complete = self.name(leaf.complete)
        if leaf.is_own is None:
            return f"{complete}({value})"
        found = self.variable()
        return f"{found} if {leaf.is_own(f'({found} := {value})', found)} else {complete}({found})"

    def _objects(self, read: str, shape: str, value: str) -> str:
        found = self.variable()
        if shape.startswith("?"):
            return f"None if ({found} := {value}) is None else {self._present(read, shape[1:], found)}"
        if shape == "[?":
            return self._present(read, shape, value)
        every = self.of_each(value)
        self.beside[found] = f"{self.name(in_lists)}({read}, {every}, at)" if shape else f"{read}({every}, at)"
        return found

    def _present(self, read: str, shape: str, value: str) -> str:
        if not shape:
            return f"{read}([{value}], at)[0]"
        rows = f"{self.name(plain_list)}({value})"
        if shape == "[":
            return f"{read}({rows}, at)"
        return f"[None if each is None else {read}([each], at)[0] for each in {rows}]"


def in_lists(read: Function, several: Sequence[Sequence[Any]], reading: Reading) -> Sequence[Sequence[Any]]:
    """Of rows in lists, likewise in lists: read as one, since most are short."""
    if {*map(type, several)} - {list}:
        raise NotPlain
    answers = iter(read([*chain.from_iterable(several)], reading))
    return [[*islice(answers, len(rows))] for rows in several]


@cache
def _columns(kind: type) -> Mapping[str, Column]:
    return {column._meta.name: column for column in kind._meta.columns} if issubclass(kind, Table) else {}


def reader(plan: Plan, kind: type, *, info: Any = None) -> Function:
    """The rows' answers: null for the fields that are left. Given `info`, each is asked if it is of the type."""
    writing = Writing(kind)
    lines = []
    if info is not None and plan.parent.is_type_of is not None:
        asked = f"{writing.name(plan.parent.is_type_of)}(row, {writing.name(info)}) is True"
        lines.append(f"if not all([{asked} for row in rows]): raise {writing.name(NotPlain)}")
    fields = dict.fromkeys(plan.fields, "None") | {step.name: _field(writing, step) for step in plan.steps}
    display = ", ".join(f"{name!r}: {answer}" for name, answer in fields.items())
    return writing.function([*lines, f"return {writing.of_each(f'{{{display}}}', *writing.beside)}"])


def _field(writing: Writing, step: Step) -> str:
    if step.source is None:
        return repr(step.typename)
    if isinstance(step.source, Loaded):
        return writing.loaded(step, writing.attribute(step.source.key))
    return writing.answer(step, writing.value(step.source))


def completer(step: Step) -> Function:
    """The answers that stand for what a loader has brought."""
    writing = Writing()
    answer = writing.answer(step, "row")
    return writing.function([f"return {writing.of_each(answer, *writing.beside)}"])


def wanter(plan: Plan, kind: type) -> Function:
    """Adds to `Reading.wanted` the keys, null among them, of rows and of the rows below them that are there already."""
    writing = Writing(kind)
    lines = []
    for step in plan.loading:
        if isinstance(step.source, Loaded):
            lines.append(f"at.wanted[{step.place}].update({writing.of_each(writing.attribute(step.source.key))})")
        else:
            assert step.below is not None
            assert step.source is not None
            lines.append(f"found = {writing.of_each(writing.value(step.source))}")
            if "[" in step.shape:
                lines.append("found = [each for several in found for each in several or ()]")
            lines.append(f"{writing.name(step.below.want)}([each for each in found if each is not None], at)")
    return writing.function([*lines, "return ()"])
