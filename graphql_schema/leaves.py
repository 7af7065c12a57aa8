"""Values of scalars and enums, completed without graphql-core where they are of the very type that is expected.

What is not said here by an exact type is NOT_PLAIN: graphql-core completes it, or says what is wrong with it.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable
from datetime import datetime
from enum import Enum
from typing import Any, Final, TypeAlias

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

from graphql_schema.scalars import MAX_SAFE_INTEGER

NOT_PLAIN: Final = object()
INT_LIMIT: Final = 2**31

# A value -> what stands for it in the answer, or NOT_PLAIN. Raises nothing.
Leaf: TypeAlias = Callable[[Any], Any]

# Neither awaitable nor an error, whatever a scalar of ours makes of them.
_PLAIN: Final = frozenset({str, int, float, bool, datetime, dict, list})


def leaf_of(type_: GraphQLOutputType) -> tuple[Leaf | None, type | None]:
    """How to complete a value of this type, and the Python type that is its own answer; none if it has fields."""
    if is_non_null_type(type_):
        complete, exact = _nullable(type_.of_type)
        return complete, exact
    complete, exact = _nullable(type_)
    return (_or_null(complete) if complete else None), exact


def _nullable(type_: GraphQLOutputType) -> tuple[Leaf | None, type | None]:
    """Of a value that isn't null."""
    if is_list_type(type_):
        complete, _ = leaf_of(type_.of_type)
        return (_each(complete) if complete else None), None
    if not is_leaf_type(type_):
        return None, None
    if isinstance(type_, GraphQLEnumType):
        return _enum(type_), None
    return _SCALARS.get(type_.name) or (_scalar(type_), None)


def _or_null(complete: Leaf) -> Leaf:
    return lambda value: None if value is None else complete(value)


def _each(complete: Leaf) -> Leaf:
    def completed(values: Any) -> Any:
        if type(values) is not list:
            return NOT_PLAIN
        found = [complete(value) for value in values]
        return NOT_PLAIN if any(one is NOT_PLAIN for one in found) else found

    return completed


def _scalar(type_: GraphQLScalarType) -> Leaf:
    def completed(value: Any) -> Any:
        if type(value) not in _PLAIN:
            return NOT_PLAIN
        try:
            answer = type_.coerce_output_value(value)
        except Exception:
            return NOT_PLAIN
        return NOT_PLAIN if answer is None or answer is Undefined else answer

    return completed


def _enum(type_: GraphQLEnumType) -> Leaf:
    names: dict[Any, str] = {}
    for name, member in type_.values.items():
        value = member.value.value if isinstance(member.value, Enum) else member.value
        if isinstance(value, str):
            names[str(value)] = name

    def completed(value: Any) -> Any:
        # Rows hold plain strings. A member of a StrEnum is equal to its value, and has the same hash.
        return names.get(value, NOT_PLAIN) if type(value) is str or isinstance(value, str) else NOT_PLAIN

    return completed


def _exactly(kind: type) -> tuple[Leaf, type]:
    return (lambda value: value if type(value) is kind else NOT_PLAIN), kind


def _id(value: Any) -> Any:
    return str(value) if isinstance(value, uuid.UUID) else value if type(value) is str else NOT_PLAIN


def _int(value: Any) -> Any:
    return value if type(value) is int and -INT_LIMIT <= value < INT_LIMIT else NOT_PLAIN


def _big_int(value: Any) -> Any:
    return value if type(value) is int and 0 <= value <= MAX_SAFE_INTEGER else NOT_PLAIN


def _float(value: Any) -> Any:
    return value if type(value) is float and math.isfinite(value) else NOT_PLAIN


_SCALARS: Final[dict[str, tuple[Leaf, type | None]]] = {
    GraphQLString.name: _exactly(str),
    GraphQLBoolean.name: _exactly(bool),
    GraphQLID.name: (_id, str),
    GraphQLInt.name: (_int, None),
    GraphQLFloat.name: (_float, None),
    "BigInt": (_big_int, None),
}
