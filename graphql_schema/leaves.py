"""Values of scalars and enums, completed without graphql-core where they are of the very type that is expected.

For what is not said here by an exact type NotPlain is raised: graphql-core completes it, or says what is wrong with it.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from typing import Any, Final

import orjson
from graphql import (
    GraphQLBoolean,
    GraphQLEnumType,
    GraphQLFloat,
    GraphQLID,
    GraphQLInt,
    GraphQLOutputType,
    GraphQLScalarType,
    GraphQLString,
    Undefined,
    is_leaf_type,
    is_list_type,
    is_non_null_type,
)
from piccolo.columns import Boolean, Column, Integer, SmallInt, Text, Varchar

from app.identifiers import UUID7
from graphql_schema.scalars import MAX_SAFE_INTEGER, serialize_big_int, serialize_date_time

INT_LIMIT: Final = 2**31
PLAIN: Final = "{0}"  # a value as it is, in what is written of it


class NotPlain(Exception):
    """Only graphql-core can tell the answer that a value stands for."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A value -> what stands for it in the answer. `complete` raises NotPlain, or whatever it likes.

    `is_own` writes the condition under which a value is its own answer, which saves the call: in Python, of an
    expression for the value, and of one for it once that has been looked at. `of_columns` has what it is written as
    where it was just read from a column of such a type, null or not, by which it is plain.
    """

    complete: Callable[[Any], Any]
    is_own: Callable[[str, str], str] | None = None
    of_columns: Mapping[type[Column], str] = field(default_factory=dict)
    may_be_null: bool = False


# Neither awaitable nor an error, whatever a scalar of ours makes of them.
_PLAIN: Final = frozenset({str, int, float, bool, datetime, dict, list})


@cache
def leaf_of(type_: GraphQLOutputType) -> Leaf | None:
    """How to complete a value of this type; None if it has fields."""
    if is_non_null_type(type_):
        return _not_null(type_.of_type)
    leaf = _not_null(type_)
    return _or_null(leaf) if leaf else None


def _not_null(type_: GraphQLOutputType) -> Leaf | None:
    if is_list_type(type_):
        leaf = leaf_of(type_.of_type)
        return Leaf(_each(leaf.complete)) if leaf else None
    if not is_leaf_type(type_):
        return None
    if isinstance(type_, GraphQLEnumType):
        return Leaf(_names(type_).__getitem__)
    return _BUILT_IN.get(type_.name) or _CUSTOM.get(type_.coerce_output_value) or Leaf(_scalar(type_))


def _or_null(leaf: Leaf) -> Leaf:
    def is_own(value: str, again: str) -> str:
        return f"{value} is None" + (f" or {leaf.is_own(again, again)}" if leaf.is_own else "")

    of_columns = {
        column: text if text == PLAIN else f"None if {PLAIN} is None else {text}"
        for column, text in leaf.of_columns.items()
    }
    return Leaf(lambda value: None if value is None else leaf.complete(value), is_own, of_columns, may_be_null=True)


def _each(complete: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda values: [complete(value) for value in plain_list(values)]


def plain_list(values: Any) -> list[Any]:
    if type(values) is not list:
        raise NotPlain
    return values


def _names(type_: GraphQLEnumType) -> dict[str, str]:
    """By value. Rows hold plain strings; a member of a StrEnum is equal to its value, and has the same hash."""
    values = {
        name: member.value.value if isinstance(member.value, Enum) else member.value
        for name, member in type_.values.items()
    }
    return {str(value): name for name, value in values.items() if isinstance(value, str)}


def _scalar(type_: GraphQLScalarType) -> Callable[[Any], Any]:
    def completed(value: Any) -> Any:
        if type(value) not in _PLAIN:
            raise NotPlain
        answer = type_.coerce_output_value(value)
        if answer is None or answer is Undefined:
            raise NotPlain
        return answer

    return completed


def _exactly(kind: type, *columns: type[Column]) -> Leaf:
    def completed(value: Any) -> Any:
        if type(value) is not kind:
            raise NotPlain
        return value

    return Leaf(completed, lambda value, _: f"type({value}) is {kind.__name__}", dict.fromkeys(columns, PLAIN))


def _id(value: Any) -> str:
    if type(value) is not str and not isinstance(value, uuid.UUID):
        raise NotPlain
    return str(value)


def _float(value: Any) -> float:
    if type(value) is float and math.isfinite(value):
        return value
    raise NotPlain


def _integer(least: int, most: int, *columns: type[Column]) -> Leaf:
    def completed(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise NotPlain
        return value

    def is_own(value: str, again: str) -> str:
        return f"type({value}) is int and {least} <= {again} <= {most}"

    return Leaf(completed, is_own, dict.fromkeys(columns, PLAIN))


def _date_time(value: Any) -> str:
    # As `serialize_date_time` says it, in a tenth of the time.
    if type(value) is datetime and value.tzinfo is UTC:
        return orjson.dumps(value, option=orjson.OPT_UTC_Z)[1:-1].decode()
    raise NotPlain


_BUILT_IN: Final = {
    GraphQLString.name: _exactly(str, Varchar, Text),
    GraphQLBoolean.name: _exactly(bool, Boolean),
    GraphQLID.name: Leaf(_id, of_columns={UUID7: f"str({PLAIN})"}),
    GraphQLInt.name: _integer(-INT_LIMIT, INT_LIMIT - 1, SmallInt, Integer),
    GraphQLFloat.name: Leaf(_float),
}
_CUSTOM: Final[dict[Any, Leaf]] = {
    serialize_big_int: _integer(0, MAX_SAFE_INTEGER),
    serialize_date_time: Leaf(_date_time),
}
