"""Where the values of fields come from, as far as that can be told before any operation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from graphql import GraphQLField
from strawberry.types.field import StrawberryField

from graphql_schema.loaders import LOADED, Loaded

SIGNED: Final = "heirloom-signed"
_STRAWBERRY: Final = "strawberry-definition"  # where Strawberry keeps its own of a field


@dataclass(frozen=True, slots=True)
class ContextOnly:
    """The Info of most resolvers' wishes. One that asks for more fails, and is asked again by graphql-core."""

    context: Any


@dataclass(frozen=True, slots=True)
class Attribute:
    name: str


@dataclass(frozen=True, slots=True)
class Resolver:
    """A sync function, and what it takes: of `row` and `info`."""

    function: Callable[..., Any]
    arguments: str


@dataclass(frozen=True, slots=True)
class Signed:
    """A field that is the signed URL of the object which an attribute names; null for a row of which `known` is false.

    By it the executor signs in the place of the resolver, which says the same: a page has 600 URLs.
    """

    key: str
    filename: str | None  # the attribute that has it
    known: Callable[[Any], bool] | None


def signed_by(
    key: str, *, filename: str | None = None, known: Callable[[Any], bool] | None = None
) -> dict[str, Signed]:
    """The metadata of such a field."""
    return {SIGNED: Signed(key, filename, known)}


Source: TypeAlias = Attribute | Resolver | Loaded | Signed


def source_of(definition: GraphQLField) -> Source | None:
    """What tells a field's value; None where only graphql-core can."""
    known = definition.extensions.get(_STRAWBERRY)
    if not isinstance(known, StrawberryField) or definition.args or known.extensions:
        return None
    if known.is_basic_field:
        return Attribute(known.python_name)
    told: Loaded | Signed | None = known.metadata.get(LOADED) or known.metadata.get(SIGNED)
    if told is not None:
        return told
    if known.is_async or known.base_resolver is None:
        return None
    return _resolver(known.base_resolver)


def _resolver(resolver: Any) -> Resolver | None:
    """One that takes its parent, and perhaps Info; none if it takes anything else."""
    given = {resolver.self_parameter, resolver.parent_parameter, resolver.root_parameter} - {None}
    arguments = [
        "info" if each == resolver.info_parameter else "row" if each in given else ""
        for each in resolver.signature.parameters.values()
    ]
    return Resolver(resolver.wrapped_func, ", ".join(arguments)) if all(arguments) else None
