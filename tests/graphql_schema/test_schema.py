"""The schema that is exported is the one that is served."""

from __future__ import annotations

import subprocess
from pathlib import Path

from graphql import GraphQLInputObjectType, build_schema

from graphql_schema.schema import schema
from tests.client import Client
from tests.server import command, environment

EXPORTED = Path(__file__).parents[2] / "graphql_schema" / "schema.graphql"


def test_the_exported_schema_is_the_printed_one() -> None:
    assert EXPORTED.read_text() == schema.as_str() + "\n", "run `heirloom export-schema graphql_schema/schema.graphql`"


def test_the_command_writes_it_and_prints_it(tmp_path: Path) -> None:
    file = tmp_path / "schema.graphql"
    env = environment(tmp_path / "data")
    written = subprocess.run(command("export-schema", str(file)), env=env, capture_output=True, timeout=60, check=True)
    printed = subprocess.run(command("export-schema"), env=env, capture_output=True, timeout=60, check=True)
    assert (written.stdout, file.read_bytes(), printed.stdout) == (b"", EXPORTED.read_bytes(), EXPORTED.read_bytes())
    # It needs no database, no key, and no data folder.
    assert list(tmp_path.iterdir()) == [file]


async def test_the_served_schema_is_the_exported_one(client: Client) -> None:
    answer = await client.ask(
        "{ __schema { types { name kind description fields(includeDeprecated: true) { name } } } }"
    )
    served = {found["name"]: found for found in answer["types"]}
    exported = build_schema(EXPORTED.read_text())
    assert set(served) == set(exported.type_map)
    for name, kind in exported.type_map.items():
        assert served[name]["description"] == kind.description
        if served[name]["kind"] in {"OBJECT", "INTERFACE"}:
            assert [found["name"] for found in served[name]["fields"]] == list(kind.fields)  # type: ignore[attr-defined]


def test_every_list_says_how_long_it_is_by_default() -> None:
    fields = {
        (name, field_name): field.args
        for name, kind in schema._schema.type_map.items()
        if not name.startswith("__") and hasattr(kind, "fields") and not isinstance(kind, GraphQLInputObjectType)
        for field_name, field in kind.fields.items()
        if str(field.type).endswith("Connection!")
    }
    lists = {("Query", "library"), ("Viewer", "profiles"), ("Viewer", "people")}
    lists |= {(kind, "media") for kind in ("Entity", "Person", "Profile")}
    assert set(fields) == lists
    assert {(args["first"].default_value, str(args["after"].type)) for args in fields.values()} == {(30, "String")}
