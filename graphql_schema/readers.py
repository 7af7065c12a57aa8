"""Python written for a selection: a function that makes an object's answer, and one that tells what loaders must bring.

A page of the library has 4,000 fields. Stepping through a list of what to do for each takes 1.5 µs a field, nearly all
of it for the stepping; what is written here takes a tenth, as if somebody had written it by hand.

What stands in the text comes from the schema, or is a literal made by `repr`. All else is handed over by a name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from types import CoroutineType, GeneratorType, NoneType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from piccolo.table import Table

from app.db import Fetched
from graphql_schema.leaves import Leaf, NotPlain, plain_list
from graphql_schema.loaders import Loaded
from graphql_schema.sources import Attribute, ContextOnly, Signed, Source
from storage.base import SignedUrl

if TYPE_CHECKING:
    from graphql_schema.plans import Plan, Selection, Step

Function: TypeAlias = Callable[[Any, "Reading"], Any]  # of a row

_NO_OBJECTS: Final = (NoneType, BaseException, GeneratorType, CoroutineType)


class Reading:
    """What is known while one object is read, with all that is below it."""

    __slots__ = ("_urls", "answers", "info", "wanted")

    def __init__(self, loading: Sequence[Step], context: Any) -> None:
        self.info = ContextOnly(context)
        self.wanted: list[set[Any]] = [set() for _ in loading]
        self.answers = [Answers(step, self) for step in loading]
        self._urls: Mapping[tuple[str, str | None, bool], SignedUrl] | None = None

    @property
    def urls(self) -> Mapping[tuple[str, str | None, bool], SignedUrl]:
        """Those of this moment, as all that is read here: nothing is waited for meanwhile."""
        if self._urls is None:
            self._urls = self.info.context.services.storage.presigned(datetime.now(UTC))
        return self._urls


class Answers(dict[Any, Any]):
    """What stands for the rows that a loader has brought, by its keys: read once, however many rows refer to it."""

    __slots__ = ("_reading", "loader", "looked_below", "step")

    def __init__(self, step: Step, reading: Reading) -> None:
        super().__init__()
        assert isinstance(step.source, Loaded)
        self.loader = step.source.loader(reading.info.context.loaders)
        self.looked_below: set[Any] = set()
        self.step = step
        self._reading = reading

    def __missing__(self, key: Any) -> Any:
        """Raises KeyError for what isn't there yet, and NotPlain."""
        row = None if key is None else self.loader.found[key]
        answer = self[key] = self.step.completed(row, self._reading)
        return answer


def refuse(_row: Any, _reading: Reading) -> Any:
    raise NotPlain


def ignore(_row: Any, _reading: Reading) -> None:
    pass


class ByClass(dict[type, Function]):
    """One function for each class of rows, which tells how their attributes are had: written for the first of them."""

    def __init__(self, write: Callable[[type], Function], otherwise: Function = refuse) -> None:
        super().__init__()
        self._write = write
        self._otherwise = otherwise  # for what is no object

    def __missing__(self, kind: type) -> Function:
        is_object = not issubclass(kind, _NO_OBJECTS) and not hasattr(kind, "__await__")
        made = self[kind] = self._write(kind) if is_object else self._otherwise
        return made


@dataclass(slots=True)
class Writing:
    """A function in the making, and what the names in it stand for. Its arguments are `row` and `at`, a Reading."""

    kind: type = object  # of the row
    names: dict[str, Any] = field(default_factory=dict)
    variables: int = 0

    def function(self, lines: Sequence[str]) -> Function:
        if issubclass(self.kind, Table):
            lines = ["fields = row.__dict__", *lines]
        text = "\n    ".join(["def written(row, at):", "info = at.info", *lines])
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

    def attribute(self, name: str) -> str:
        if issubclass(self.kind, Fetched):
            return f"row[{name!r}]"
        # Piccolo's descriptors look there, too, and take ten times as long.
        kind: Any = self.kind
        return f"fields[{name!r}]" if name in _columns(kind) else f"row.{name}"

    def value(self, source: Source) -> str:
        """What tells a field's value, where no loader does."""
        if isinstance(source, Attribute):
            return self.attribute(source.name)
        if isinstance(source, Signed):
            return self._url(source)
        assert not isinstance(source, Loaded)
        return f"{self.name(source.function)}({source.arguments})"

    def _url(self, source: Signed) -> str:
        filename = self.attribute(source.filename) if source.filename else "None"
        url = f"at.urls[{self.attribute(source.key)}, {filename}, True].url"
        return f"({url} if {self.name(source.known)}(row) else None)" if source.known else url

    def answer(self, step: Step, value: str) -> str:
        """What stands for a field's value in the answer."""
        if step.leaf is not None:
            return self._leaf(step.leaf, value)
        assert step.below is not None
        return self._objects(step.below, step.shape, value)

    def _leaf(self, leaf: Leaf, value: str) -> str:
        complete = self.name(leaf.complete)
        if leaf.is_own is None:
            return f"{complete}({value})"
        found = self.variable()
        return f"{found} if {leaf.is_own(f'({found} := {value})', found)} else {complete}({found})"

    def _objects(self, below: Selection, shape: str, value: str) -> str:
        found = self.variable()
        if shape.startswith("?"):
            return f"None if ({found} := {value}) is None else {self._objects(below, shape[1:], found)}"
        if shape.startswith("["):
            each = self._object(below, "each", "each")
            each = f"None if each is None else {each}" if shape == "[?" else each
            return f"[{each} for each in {self.name(plain_list)}({value})]"
        return self._object(below, f"({found} := {value})", found)

    def _object(self, below: Selection, value: str, again: str) -> str:
        if below.only is None:
            return f"{self.name(below.read)}({value}, at)"
        return f"{self.name(below.readers[below.only.parent.name])}[type({value})]({again}, at)"

    def wanting(self, below: Selection, value: str) -> str:
        if below.only is None:
            return f"{self.name(below.want)}({value}, at)"
        return f"{self.name(below.only.wanters)}[type({value})]({value}, at)"


@cache
def _columns(kind: type) -> frozenset[str]:
    return frozenset(column._meta.name for column in kind._meta.columns) if issubclass(kind, Table) else frozenset()


def reader(plan: Plan, kind: type, *, info: Any = None) -> Function:
    """A row's answer: null for the fields that are left. Given `info`, the row is asked whether it is of the type."""
    writing = Writing(kind)
    lines = []
    if info is not None and plan.parent.is_type_of is not None:
        asked = f"{writing.name(plan.parent.is_type_of)}(row, {writing.name(info)})"
        lines.append(f"if {asked} is not True: raise {writing.name(NotPlain)}")
    fields = dict.fromkeys(plan.fields, "None") | {step.name: _field(writing, step) for step in plan.steps}
    display = ", ".join(f"{name!r}: {answer}" for name, answer in fields.items())
    return writing.function([*lines, f"return {{{display}}}"])


def _field(writing: Writing, step: Step) -> str:
    if step.source is None:
        return repr(step.typename)
    if isinstance(step.source, Loaded):
        return f"at.answers[{step.place}][{writing.attribute(step.source.key)}]"
    return writing.answer(step, writing.value(step.source))


def completer(step: Step) -> Function:
    """The answer that stands for what a loader has brought."""
    writing = Writing()
    return writing.function([f"return {writing.answer(step, 'row')}"])


def wanter(plan: Plan, kind: type) -> Function:
    """Adds to `Reading.wanted` the keys, null among them, of a row and of the rows below it that are there already."""
    writing = Writing(kind)
    lines = []
    for step in plan.loading:
        if isinstance(step.source, Loaded):
            lines.append(f"at.wanted[{step.place}].add({writing.attribute(step.source.key)})")
        else:
            assert step.below is not None
            assert step.source is not None
            lines.append(f"found = {writing.value(step.source)}")
            want = writing.wanting(step.below, "each" if "[" in step.shape else "found")
            lines.append(f"for each in found or (): {want}" if "[" in step.shape else want)
    return writing.function(lines)
