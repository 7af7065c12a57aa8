"""Where the values of fields come from, as far as that can be told before any operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final, TypeAlias

from graphql import GraphQLField
from strawberry.types.field import StrawberryField

from graphql_schema.loaders import LOADED, Loaded

Get: TypeAlias = Callable[[Any], Any]  # of a row; raises whatever it likes

_STRAWBERRY: Final = "strawberry-definition"  # where Strawberry keeps its own of a field


@dataclass(frozen=True, slots=True)
class ContextOnly:
    """The Info of most resolvers' wishes. One that asks for more fails, and is asked again by graphql-core."""

    context: Any


def source_of(definition: GraphQLField, info: ContextOnly) -> tuple[Get, Loaded | None] | None:
    """What tells a field's value; None where only graphql-core can."""
    known = definition.extensions.get(_STRAWBERRY)
    if not isinstance(known, StrawberryField) or definition.args or known.extensions:
        return None
    if known.is_basic_field:
        return attrgetter(known.python_name), None
    loaded: Loaded | None = known.metadata.get(LOADED)
    if loaded is not None:
        return _known(loaded, info.context), loaded
    if known.is_async or known.base_resolver is None:
        return None
    call = _call(known.base_resolver, info)
    return (call, None) if call else None


def _known(loaded: Loaded, context: Any) -> Get:
    def get(row: Any) -> Any:
        """Raises KeyError for what isn't there yet."""
        key = loaded.key(row)
        return None if key is None else loaded.loader(context.loaders).known(key)

    return get


def _call(resolver: Any, info: ContextOnly) -> Get | None:
    """A call of a resolver that takes its parent, and perhaps Info, in this order; none if it is another."""
    function = resolver.wrapped_func
    given = {resolver.self_parameter, resolver.parent_parameter, resolver.root_parameter} - {None}
    kinds = "".join(
        "i" if each == resolver.info_parameter else "r" if each in given else "?"
        for each in resolver.signature.parameters.values()
    )
    calls: Mapping[str, Get] = {
        "r": function,
        "rr": lambda row: function(row, row),
        "ri": lambda row: function(row, info),
        "rri": lambda row: function(row, row, info),
    }
    return calls.get(kinds)
