"""Hooks of extensions run as Strawberry's own runner has them run: the same order, and the same of what they raise."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import strawberry
from strawberry.extensions import SchemaExtension
from strawberry.types import ExecutionContext

from graphql_schema.hooks import Hooks

BEFORE = [f"{name} {stage}" for stage in ("operation", "parse", "validate", "execute") for name in ("Outer", "Inner")]


@strawberry.type
class Query:
    @strawberry.field
    async def number(self, info: strawberry.Info) -> int:
        return 1 // info.context["by"]  # type: ignore[no-any-return]


class Outer(SchemaExtension):
    """Its hooks are sync, but for the first."""

    def said(self, what: str) -> None:
        context = self.execution_context.context
        context["told"].append(f"{type(self).__name__} {what}")
        if context["raising"] == context["told"][-1]:
            raise LookupError(what)

    async def on_operation(self) -> AsyncIterator[None]:
        self.said("operation")
        try:
            yield
        except Exception as error:
            self.said(f"operation: {type(error).__name__}")
            raise
        finally:
            self.said("operation over")

    def on_parse(self) -> Iterator[None]:
        self.said("parse")
        yield
        self.said("parse over")

    def on_validate(self) -> Iterator[None]:
        self.said("validate")
        yield
        self.said("validate over")

    def on_execute(self) -> Iterator[None]:
        self.said("execute")
        yield
        self.said("execute over")


class Inner(Outer):
    """Turns what was raised within an operation into another."""

    async def on_operation(self) -> AsyncIterator[None]:
        self.said("operation")
        try:
            yield
        except LookupError as error:
            raise KeyError("another") from error
        self.said("operation over")


class Stock(strawberry.Schema):
    def process_errors(self, *_: Any) -> None:
        pass


class Ours(Stock):
    def create_extensions_runner(self, execution_context: ExecutionContext, extensions: list[SchemaExtension]) -> Hooks:
        return Hooks(execution_context, extensions)


async def run(schema: type[strawberry.Schema], query: str, by: int, raising: str | None) -> tuple[Any, ...]:
    context = {"told": [], "by": by, "raising": raising}
    result: Any = await schema(Query, extensions=[Outer, Inner]).execute(query, context_value=context)
    return result.data, [str(error) for error in result.errors or ()], context["told"]


async def test_what_has_begun_is_over_when_the_next_one_fails() -> None:
    """Stock leaves it to the garbage collector, and with it all that the operation has."""
    stock, ours = [await run(schema, "{ number }", 1, "Inner operation") for schema in (Stock, Ours)]
    assert (ours[:2], stock[2]) == (stock[:2], ["Outer operation", "Inner operation"])
    assert ours[2] == [*stock[2], "Outer operation: LookupError", "Outer operation over"]


@pytest.mark.parametrize(
    "raising", [None, *(each for each in BEFORE if each != "Inner operation"), *(f"{each} over" for each in BEFORE)]
)
async def test_what_a_hook_raises_is_told_as_by_the_stock_runner(raising: str | None) -> None:
    stock, ours = [await run(schema, "{ number }", 1, raising) for schema in (Stock, Ours)]
    assert ours == stock
    assert (ours[0] == {"number": 1}) == (not ours[1])
    assert raising is None or raising in ours[2]


@pytest.mark.parametrize(("query", "by"), [("{ number }", 0), ("{ nothing }", 1), ("{", 1), ("", 1)])
async def test_what_fails_between_hooks_is_told_as_by_the_stock_runner(query: str, by: int) -> None:
    told = []
    for schema in (Stock, Ours):
        try:
            told.append(await run(schema, query, by, None))
        except Exception as error:
            told.append((type(error), str(error)))
    assert told[0] == told[1]


async def test_hooks_run_from_the_outside_in_and_back() -> None:
    _, _, told = await run(Ours, "{ number }", 1, None)
    stages = ["operation", "parse", "parse over", "validate", "validate over", "execute", "execute over"]
    expected = [
        f"{name} {stage}"
        for stage in stages
        for name in (("Inner", "Outer") if "over" in stage else ("Outer", "Inner"))
    ]
    assert told == [*expected, "Inner operation over", "Outer operation over"]


async def test_a_hook_that_is_no_generator_is_told_at_once() -> None:
    class Plain(SchemaExtension):
        def on_parse(self) -> None:  # type: ignore[override]
            pass

    result: Any = await Ours(Query, extensions=[Plain]).execute("{ number }", context_value={"by": 1})
    assert [str(error) for error in result.errors] == ["Plain.on_parse is no generator"]
