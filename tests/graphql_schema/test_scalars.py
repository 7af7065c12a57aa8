"""The custom scalars, through a schema: variables, literals and output."""

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import strawberry
from graphql import print_type
from strawberry.schema.config import StrawberryConfig

from graphql_schema.scalars import JSON, SCALARS, BigInt, FuzzyDate
from graphql_schema.spool import UploadedFile


@strawberry.input
class Attachment:
    file: UploadedFile


@strawberry.type
class Query:
    @strawberry.field
    def at(self, value: datetime) -> datetime:
        return value

    @strawberry.field
    def now_in(self, hours: int) -> datetime:
        return datetime(2024, 1, 1, 1, tzinfo=timezone(timedelta(hours=hours)))

    @strawberry.field
    def naive(self) -> datetime:
        return datetime(2024, 1, 1)  # noqa: DTZ001  # what a resolver must not return

    @strawberry.field
    def fuzzy(self, value: FuzzyDate | None = None) -> FuzzyDate | None:
        return value

    @strawberry.field
    def size(self, value: BigInt) -> BigInt:
        return value

    @strawberry.field
    def any(self, value: JSON) -> JSON:
        return value

    @strawberry.field
    def text(self, value: str) -> str:
        return value

    @strawberry.field
    def upload(self, value: UploadedFile) -> str:
        return value.filename

    @strawberry.field
    def attach(self, value: Attachment) -> str:
        return value.file.filename


SCHEMA = strawberry.Schema(Query, config=StrawberryConfig(scalar_map=SCALARS))
FILE = UploadedFile(Path("/secret/place"), filename="a.jpg")


def ask(field: str, kind: str, value: Any) -> tuple[Any, list[str]]:
    """The field's answer to a variable of this kind, and the errors' messages."""
    result = SCHEMA.execute_sync(f"query Q($value: {kind}) {{ {field}(value: $value) }}", {"value": value})
    return (result.data or {}).get(field), [error.message for error in result.errors or []]


def ask_literal(field: str, literal: str) -> tuple[Any, list[str]]:
    result = SCHEMA.execute_sync(f"{{ {field}(value: {literal}) }}")
    return (result.data or {}).get(field), [error.message for error in result.errors or []]


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("DateTime", '"""ISO 8601 date-time with offset, always UTC on output."""\nscalar DateTime'),
        (
            "FuzzyDate",
            '"""\nA calendar date of any precision in EDTF level 1 (ISO 8601-2): `1943`, `1943-05`, `1943-05-12`,\n'
            '`1943~` (circa), `1943?`, `1940/1945`. Old photographs rarely have exact dates.\n"""\nscalar FuzzyDate',
        ),
        (
            "BigInt",
            '"""\nAn integer up to 2^53 - 1, serialised as a JSON number. For byte counts.\n"""\nscalar BigInt',
        ),
        ("JSON", '"""Any JSON value."""\nscalar JSON'),
        ("Upload", '"""A file part of a GraphQL multipart request."""\nscalar Upload'),
    ],
)
def test_the_schema_describes_them(name: str, printed: str) -> None:
    kind = SCHEMA._schema.type_map[name]
    assert print_type(kind) == printed


@pytest.mark.parametrize(
    ("given", "answered"),
    [
        ("2024-05-12T18:30:00Z", "2024-05-12T18:30:00Z"),
        ("2024-05-12T18:30Z", "2024-05-12T18:30:00Z"),
        ("2024-05-12T18:30:00+02:00", "2024-05-12T16:30:00Z"),
        ("2024-05-12T18:30:00.25-23:59", "2024-05-13T18:29:00.250000Z"),
        ("2024-02-29T00:00:00.123456789Z", "2024-02-29T00:00:00.123456Z"),
    ],
)
def test_a_date_time_is_answered_in_utc(given: str, answered: str) -> None:
    assert ask("at", "DateTime!", given) == (answered, [])
    assert ask_literal("at", f'"{given}"') == (answered, [])


@pytest.mark.parametrize(
    "given",
    [
        "",
        "2024-05-12",
        "2024-05-12T18:30:00",
        "2024-05-12 18:30:00Z",
        "20240512T183000Z",
        "2024-W19-7T18:30:00Z",
        "2024-02-30T00:00:00Z",
        "2024-05-12T25:00:00Z",
        "2024-05-12T18:30:00+0200",
        "2024-05-12T18:30:00Z\n",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "\u0662\u0660\u0662\u0664-05-12T18:30:00Z",  # digits that int() would take
        1715538600,
        True,
        ["2024-05-12T18:30:00Z"],
        FILE,
    ],
)
def test_what_is_no_date_time_is_refused(given: Any) -> None:
    answer, errors = ask("at", "DateTime!", given)
    assert answer is None
    assert len(errors) == 1
    assert "A DateTime is an ISO 8601 string with its offset" in errors[0]


def test_output_of_any_zone_is_utc_and_of_none_an_error() -> None:
    result = SCHEMA.execute_sync("{ nowIn(hours: 2) }")
    assert result.data == {"nowIn": "2023-12-31T23:00:00Z"}
    assert SCHEMA.execute_sync("{ naive }").errors


@pytest.mark.parametrize(
    "given",
    [
        "1943",
        "0001",
        "1943-05",
        "1943-05-12",
        "1943~",
        "1943?",
        "1943%",
        "1943-05~",
        "1944-02-29?",
        "1940/1945",
        "1943/1943",
        "1943-05/1943",
        "1940~/1945-06-30?",
        "1943-12/1943-12-31",
    ],
)
def test_a_fuzzy_date_is_answered_as_given(given: str) -> None:
    assert ask("fuzzy", "FuzzyDate", given) == (given, [])
    assert ask_literal("fuzzy", f'"{given}"') == (given, [])


@pytest.mark.parametrize(
    "given",
    [
        "",
        "43",
        "19430",
        "0000",
        "-1943",
        "194X",
        "1943-13",
        "1943-00",
        "1943-5",
        "1943-02-29",
        "1943-05-00",
        "1943-05-12T00:00Z",
        "~1943",
        "1943~?",
        "1943 ",
        "1943\n",
        "1943/",
        "/1943",
        "1943/..",
        "1945/1940",
        "1943-06/1943-05",
        "1940/1943/1945",
        "about 1943",
        "\u0661\u0669\u0664\u0663",
        1943,
        FILE,
    ],
)
def test_what_is_no_fuzzy_date_is_refused(given: Any) -> None:
    answer, errors = ask("fuzzy", "FuzzyDate", given)
    assert answer is None
    assert len(errors) == 1
    assert "A FuzzyDate is an EDTF date such as" in errors[0]


@pytest.mark.parametrize("given", [0, 2**31, 2**53 - 1, 5.0])
def test_a_big_int_is_a_number(given: float) -> None:
    answer, errors = ask("size", "BigInt!", given)
    assert (answer, type(answer), errors) == (given, int, [])
    assert ask_literal("size", str(int(given))) == (given, [])


@pytest.mark.parametrize("given", [-1, 2**53, 1.5, float("inf"), float("nan"), 1e300, "5", True, [5], FILE])
def test_what_is_no_big_int_is_refused(given: Any) -> None:
    answer, errors = ask("size", "BigInt!", given)
    assert answer is None
    assert len(errors) == 1
    assert "A BigInt is an integer from 0 to 9007199254740991." in errors[0]


def test_json_is_any_value_but_a_file() -> None:
    value = {"a": [1, 2.5, None, True, "x"], "b": {}}
    assert ask("any", "JSON!", value) == (value, [])
    assert ask_literal("any", "{a: [1, null], b: FOO}") == ({"a": [1, None], "b": "FOO"}, [])
    result = SCHEMA.execute_sync("query Q($x: String!) { any(value: {a: [$x]}) }", {"x": "y"})
    assert result.data == {"any": {"a": ["y"]}}

    answer, errors = ask("any", "JSON!", {"a": [FILE]})
    assert (answer, errors) == (None, ["Variable '$value' has invalid value: This is not a JSON value."])


def test_an_upload_is_a_file() -> None:
    assert ask("upload", "Upload!", FILE) == ("a.jpg", [])
    assert ask("attach", "Attachment!", {"file": FILE}) == ("a.jpg", [])


@pytest.mark.parametrize("given", ["a.jpg", "", 1, True, {"filename": "a.jpg"}, ["a.jpg"]])
def test_what_is_no_file_is_no_upload(given: Any) -> None:
    for field, kind, value in (("upload", "Upload!", given), ("attach", "Attachment!", {"file": given})):
        answer, errors = ask(field, kind, value)
        assert answer is None
        assert len(errors) == 1
        assert "An Upload is a file part of a GraphQL multipart request" in errors[0]


@pytest.mark.parametrize("literal", ['"a.jpg"', "1", "true", "FOO", "{a: 1}", '["a.jpg"]'])
def test_a_literal_is_no_upload(literal: str) -> None:
    answer, errors = ask_literal("upload", literal)
    assert (answer, len(errors)) == (None, 1)
    assert "An Upload is a file part" in errors[0]


def test_a_file_in_anothers_place_does_not_tell_where_it_lies() -> None:
    answer, errors = ask("text", "String!", FILE)
    assert (answer, len(errors)) == (None, 1)
    assert "secret" not in errors[0]
