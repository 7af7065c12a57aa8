"""The worked example that GraphiQL opens with."""

from __future__ import annotations

import json
from pathlib import Path

from graphql import OperationDefinitionNode, build_schema, parse, validate

PROJECT = Path(__file__).parents[2]
EXAMPLE = PROJECT / "web" / "graphiql" / "example"


def test_it_is_valid_against_the_exported_schema() -> None:
    schema = build_schema((PROJECT / "graphql_schema" / "schema.graphql").read_text())
    assert validate(schema, parse((EXAMPLE / "walk.graphql").read_text())) == []


def test_its_variables_are_those_that_its_operations_declare() -> None:
    operations = [
        definition
        for definition in parse((EXAMPLE / "walk.graphql").read_text()).definitions
        if isinstance(definition, OperationDefinitionNode)
    ]
    declared = {
        definition.variable.name.value
        for operation in operations
        for definition in operation.variable_definitions or ()
    }
    assert declared == json.loads((EXAMPLE / "variables.json").read_text()).keys()
