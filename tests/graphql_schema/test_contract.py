"""What was promised to clients stays: the schema adds to the contract, and takes nothing from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from graphql import (
    DangerousChangeType,
    GraphQLInputObjectType,
    GraphQLSchema,
    build_schema,
    find_breaking_changes,
    find_dangerous_changes,
    print_ast,
)

from graphql_schema.schema import schema

CONTRACT = build_schema((Path(__file__).parent / "contract.graphql").read_text())
SERVED = build_schema(schema.as_str())
# A client meets what it doesn't know; one of the contract's has a word for that already.
ADDITIONS = {DangerousChangeType.VALUE_ADDED_TO_ENUM}


def test_nothing_of_the_contract_is_broken() -> None:
    assert find_breaking_changes(CONTRACT, SERVED) == []


def test_nothing_of_the_contract_means_something_else() -> None:
    changes = [change for change in find_dangerous_changes(CONTRACT, SERVED) if change.type not in ADDITIONS]
    assert changes == []


def test_what_is_left_out_of_an_input_is_what_it_was() -> None:
    """graphql-core compares the defaults of arguments alone. Null is what a field without one is."""
    promised, served = dict(defaults(CONTRACT)), dict(defaults(SERVED))
    assert {name: served[name] for name in promised} == promised
    assert promised["CreateUploadSessionInput.isPublic"] == "false"


def defaults(of: GraphQLSchema) -> Iterator[tuple[str, str]]:
    for kind in of.type_map.values():
        if isinstance(kind, GraphQLInputObjectType):
            for name, field in kind.fields.items():
                written = field.ast_node and field.ast_node.default_value
                yield f"{kind}.{name}", print_ast(written) if written else "null"


def test_the_contract_would_tell() -> None:
    """An empty answer must not come from comparing a thing with itself, or with nothing."""
    changed = schema.as_str().replace("  viewer: Viewer\n", "").replace("first: Int = 30", "first: Int = 31")
    broken = build_schema(changed)
    assert [change.description for change in find_breaking_changes(CONTRACT, broken)] == [
        "Field Query.viewer was removed."
    ]
    told = {change.type for change in find_dangerous_changes(CONTRACT, broken)}
    assert told == {DangerousChangeType.ARG_DEFAULT_VALUE_CHANGE, *ADDITIONS}
