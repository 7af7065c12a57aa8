"""The custom scalars of the contract. Types of the schema are annotated with the Python types that SCALARS maps."""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import NewType

import orjson
import strawberry
from graphql import GraphQLError
from strawberry.types.scalar import ScalarDefinition

from graphql_schema.spool import UploadedFile

FuzzyDate = NewType("FuzzyDate", str)
BigInt = NewType("BigInt", int)
JSON = NewType("JSON", object)

MAX_SAFE_INTEGER = 2**53 - 1  # the last one that JavaScript, and so many a JSON reader, holds exactly

# RFC 3339 with the seconds optional. Python's own parser takes more: week dates, no offset, any separator.
DATE_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?(Z|[+-][0-9]{2}:[0-9]{2})"
)
# A date of EDTF level 1 with its qualifier: uncertain (?), approximate (~), both (%).
EDTF_DATE = re.compile(r"([0-9]{4})(?:-([0-9]{2})(?:-([0-9]{2}))?)?[?~%]?")


def parse_date_time(value: object) -> datetime:
    """ISO 8601 with its offset -> the same instant in UTC."""
    if isinstance(value, str) and DATE_TIME.fullmatch(value):
        try:
            return datetime.fromisoformat(value).astimezone(UTC)
        except (ValueError, OverflowError):  # no such day, or an offset that leaves the years 1 to 9999
            pass
    raise GraphQLError("A DateTime is an ISO 8601 string with its offset, such as 2024-05-12T18:30:00Z.")


def serialize_date_time(value: datetime) -> str:
    """An aware datetime -> UTC, ending in Z."""
    if value.tzinfo is None:
        raise ValueError(f"{value!r} has no time zone")
    return value.astimezone(UTC).isoformat().removesuffix("+00:00") + "Z"


def parse_fuzzy_date(value: object) -> FuzzyDate:
    """A date of EDTF level 1, or an interval of two; days must exist, and an interval may not end before it begins."""
    if isinstance(value, str):
        try:
            spans = [_span(part) for part in value.split("/", 2)]
        except ValueError:
            spans = []
        if len(spans) == 1 or (len(spans) == 2 and spans[0][0] <= spans[1][1]):
            return FuzzyDate(value)
    raise GraphQLError(
        "A FuzzyDate is an EDTF date such as 1943, 1943-05, 1943-05-12, 1943~, 1943? or an interval such as 1940/1945."
    )


def _span(text: str) -> tuple[date, date]:
    """The first and the last day that an EDTF date covers. Raises ValueError when it is none."""
    match = EDTF_DATE.fullmatch(text)
    if match is None:
        raise ValueError(text)
    year, month, day = match.groups()
    first = date(int(year), int(month or 1), int(day or 1))
    if day:
        return first, first
    last_month = int(month or 12)
    return first, date(first.year, last_month, monthrange(first.year, last_month)[1])


def parse_big_int(value: object) -> BigInt:
    # bool is an int to Python; 5.0 is an integer to JSON, and GraphQL's own Int takes it too.
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1:
        number = int(value)
        if 0 <= number <= MAX_SAFE_INTEGER:
            return BigInt(number)
    raise GraphQLError("A BigInt is an integer from 0 to 9007199254740991.")


def serialize_big_int(value: int) -> int:
    return parse_big_int(value)


def parse_json(value: object) -> JSON:
    """Any JSON value; a file that `map` placed inside one is none."""
    try:
        orjson.dumps(value, default=_refuse_file, option=orjson.OPT_PASSTHROUGH_DATACLASS)
    except orjson.JSONEncodeError as error:
        raise GraphQLError("This is not a JSON value.") from error
    return JSON(value)


def _refuse_file(value: object) -> None:
    # What else is not JSON is graphql-core's Undefined: it stands for a variable while a literal is validated.
    if isinstance(value, UploadedFile):
        raise TypeError("a file")


def parse_upload(value: object) -> UploadedFile:
    if isinstance(value, UploadedFile):
        return value
    raise GraphQLError("An Upload is a file part of a GraphQL multipart request, named in its `map`.")


def serialize_upload(_value: object) -> object:
    raise GraphQLError("An Upload is for input only.")


SCALARS: Mapping[object, ScalarDefinition] = {
    datetime: strawberry.scalar(
        name="DateTime",
        description="ISO 8601 date-time with offset, always UTC on output.",
        serialize=serialize_date_time,
        parse_value=parse_date_time,
    ),
    FuzzyDate: strawberry.scalar(
        name="FuzzyDate",
        description=(
            "A calendar date of any precision in EDTF level 1 (ISO 8601-2): `1943`, `1943-05`, `1943-05-12`,\n"
            "`1943~` (circa), `1943?`, `1940/1945`. Old photographs rarely have exact dates."
        ),
        serialize=str,
        parse_value=parse_fuzzy_date,
    ),
    BigInt: strawberry.scalar(
        name="BigInt",
        description="An integer up to 2^53 - 1, serialised as a JSON number. For byte counts.",
        serialize=serialize_big_int,
        parse_value=parse_big_int,
    ),
    JSON: strawberry.scalar(
        name="JSON",
        description="Any JSON value.",
        serialize=lambda value: value,
        parse_value=parse_json,
    ),
    UploadedFile: strawberry.scalar(
        name="Upload",
        description="A file part of a GraphQL multipart request.",
        serialize=serialize_upload,
        parse_value=parse_upload,
    ),
}
"""For `StrawberryConfig(scalar_map=SCALARS)`."""
