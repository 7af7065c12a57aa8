"""What an operation costs, told when it is asked for, and refused beyond a limit before anything is executed."""

from __future__ import annotations

from typing import Any

import pytest
from graphql import (
    GraphQLField,
    get_introspection_query,
    get_named_type,
    get_nullable_type,
    is_composite_type,
    is_interface_type,
    is_list_type,
    is_object_type,
)

from graphql_schema.cost import DEAR, ITEMS, PAGE, ROW, SIZES
from graphql_schema.limits import TOO_COMPLEX
from graphql_schema.operations import INTROSPECTION_COST
from graphql_schema.schema import MAX_BATCH, schema
from tests.client import MEDIA, Account, Client, Json

LIMIT = 25_000  # as settings have it
ROOT = 50


async def asked(who: Client, query: str, **variables: Any) -> Json:
    payload = {"query": query, "variables": variables, "extensions": {"cost": True}}
    answer: Json = (await who.http.post("/graphql", json=payload)).json()
    return answer


def too_dear(cost: int, limit: int = LIMIT, what: str = "operation") -> Json:
    message = f"The {what} is too complex: cost {cost}, at most {limit}."
    return {"message": message, "extensions": {"code": TOO_COMPLEX, "cost": cost, "limit": limit}}


def without_locations(answer: Json) -> Json:
    for error in answer["errors"]:
        error.pop("locations", None)
    return answer


COSTS: dict[str, tuple[str, Json, int]] = {
    "a field": ("{ __typename }", {}, 1),
    "fields": ("{ viewer { email user { displayName } } }", {}, ROOT + 3),
    "other names": ("{ viewer { a: email b: email } }", {}, ROOT + 2),
    "a page": ("{ library(first: 20) { nodes { id url } } }", {}, ROOT + 20 * ROW + 20 * 3),
    "a page of the usual length": ("{ library { nodes { id } } }", {}, ROOT + 30 * ROW + 30 * 2),
    "a page of null": ("{ library(first: null) { nodes { id } } }", {}, ROOT + 30 * ROW + 30 * 2),
    "what a page has once": (
        "{ library(first: 20) { pageInfo { endCursor } totalCount edges { cursor } } }",
        {},
        ROOT + 20 * ROW + 2 + ROOT + 20 * 2,
    ),
    "an empty page": ("{ library(first: 0) { nodes { id } } }", {}, ROOT),
    "a list in a page": ("{ library(first: 2) { nodes { variants { url } } } }", {}, ROOT + 2 * ROW + 2 * (1 + 1 + 7)),
    "a page in a page": (
        "{ viewer { profiles(first: 4) { nodes { media(first: 5) { nodes { id } } } } } }",
        {},
        ROOT + (ROOT + 4 * ROW) + 4 * (1 + (ROOT + 5 * ROW) + 5 * 2),
    ),
    "a list that takes its length": (
        "{ library(first: 3) { nodes { similar(first: 4) { distance } } } }",
        {},
        ROOT + 3 * ROW + 3 * (1 + ROOT + 4 * ROW + 4 * 1),
    ),
    "a variable": ("query($n: Int) { library(first: $n) { nodes { id } } }", {"n": 7}, ROOT + 7 * ROW + 7 * 2),
    "a variable that is null": (
        "query($n: Int = 7) { library(first: $n) { nodes { id } } }",
        {"n": None},
        ROOT + 30 * ROW + 30 * 2,
    ),
    "a variable left out": ("query($n: Int) { library(first: $n) { nodes { id } } }", {}, ROOT + 30 * ROW + 30 * 2),
    "a variable's own default": (
        "query($n: Int = 7) { library(first: $n) { nodes { id } } }",
        {},
        ROOT + 7 * ROW + 7 * 2,
    ),
    "a whole number that JSON has as another": (
        "query($n: Int) { library(first: $n) { nodes { id } } }",
        {"n": 7.0},
        ROOT + 7 * ROW + 7 * 2,
    ),
    "a fragment twice": (
        "{ a: library(first: 2) { ...F } b: library(first: 3) { ...F } } "
        "fragment F on MediaConnection { nodes { id } totalCount }",
        {},
        (ROOT + 2 * ROW + 2 * 2 + ROOT) + (ROOT + 3 * ROW + 3 * 2 + ROOT),
    ),
    "an inline fragment": ('{ node(id: "17") { ... on Media { variants { url } } } }', {}, ROOT + 1 + 7),
    "what is skipped": ("{ viewer @skip(if: true) { email } }", {}, ROOT + 1),
    "a mutation": ("mutation { logout { errors { code } } }", {}, ROOT + 1 + 2),
    "introspection": ("{ __schema { types { name } } }", {}, 1),
}


@pytest.mark.parametrize(("query", "variables", "cost"), COSTS.values(), ids=COSTS)
async def test_the_cost_is_told(client: Client, query: str, variables: Json, cost: int) -> None:
    for _ in range(2):  # a document that is known costs the same
        answer = await asked(client, query, **variables)
        assert answer["extensions"] == {"cost": {"requested": cost, "limit": LIMIT}}


async def test_the_cost_is_not_told_unasked(client: Client) -> None:
    assert await client.post("{ viewer { email } }") == {"data": {"viewer": None}}


async def test_the_cost_is_told_on_a_socket(client: Client) -> None:
    async with client.socket() as socket:
        payload = {"query": "{ __typename }", "extensions": {"cost": True}}
        await socket.send({"type": "subscribe", "id": "a", "payload": payload})
        assert (await socket.receive())["payload"]["extensions"] == {"cost": {"requested": 1, "limit": LIMIT}}
        assert (await socket.receive())["type"] == "complete"
        await socket.send({"type": "subscribe", "id": "b", "payload": {"query": "{ __typename }"}})
        assert (await socket.receive())["payload"] == {"data": {"__typename": "Query"}}


# ---------------------------------------------------------------- what passes

PAGE_OF_ALL = f"""
    query($first: Int!) {{ library(first: $first) {{
        edges {{ cursor node {{ {MEDIA} entity {{ id publicId name }} owner {{ id displayName }} }} }}
        pageInfo {{ hasNextPage endCursor }} totalCount
    }} }}
"""


async def test_the_longest_page_with_all_it_has_passes(client: Client) -> None:
    answer = await asked(client, PAGE_OF_ALL, first=100)
    assert "errors" not in answer
    assert 16_500 < answer["extensions"]["cost"]["requested"] < 17_500  # the settings say 17,000, of 25,000


async def test_the_introspection_of_tools_passes(client: Client) -> None:
    everything = get_introspection_query(
        specified_by_url=True, directive_is_repeatable=True, schema_description=True, input_value_deprecation=True
    )
    answer = await client.post(everything)
    assert "errors" not in answer
    assert {"name": "Query"}.items() <= answer["data"]["__schema"]["queryType"].items()


# ---------------------------------------------------------------- what does not

TWO_PAGES = (
    "query($n: Int) { library(first: $n) { nodes { similar(first: 100) { media { id url variants { url } } } } } }"
)
ONE = ROOT + 100 * ROW + 100 * 11  # of `similar`


@pytest.mark.parametrize("fine", [14])
async def test_a_cost_beyond_the_limit_is_refused(client: Client, fine: int) -> None:
    cost = ROOT + fine * ROW + fine * (1 + ONE)
    assert cost <= LIMIT < (more := ROOT + (fine + 2) * ROW + (fine + 2) * (1 + ONE))
    answer = await asked(client, TWO_PAGES, n=fine)
    assert answer == {
        "data": {"library": {"nodes": []}},
        "extensions": {"cost": {"requested": cost, "limit": LIMIT}},
    }
    refused = without_locations(await asked(client, TWO_PAGES, n=fine + 2))
    assert refused == {"errors": [too_dear(more)], "extensions": {"cost": {"requested": more, "limit": LIMIT}}}


async def test_a_refused_mutation_changes_nothing(ada: Account) -> None:
    media = "results { media { similar(first: 100) { media { variants { url } } } } }"
    answer = await ada.post(
        f'mutation {{ deleteMedia(input: {{ids: ["17"]}}) {{ {media} }} logout {{ errors {{ code }} }} }}'
    )
    assert [error["extensions"]["code"] for error in answer["errors"]] == [TOO_COMPLEX]
    assert "data" not in answer
    assert await ada.ask("{ viewer { email } }") == {"email": ada.email}


async def test_a_page_is_counted_as_no_longer_than_it_can_be(ada: Account) -> None:
    answer = await asked(ada, "{ library(first: 2000000000) { nodes { id } } }")
    assert [error["extensions"]["code"] for error in answer["errors"]] == ["BAD_INPUT"]
    assert answer["extensions"]["cost"]["requested"] == ROOT + 100 * ROW + 100 * 2


async def test_aliases_multiply_lists(client: Client) -> None:
    pages = " ".join(f"a{index}: library(first: 100) {{ nodes {{ id url title }} }}" for index in range(50))
    answer = without_locations(await client.post(f"{{ {pages} }}"))
    assert answer == {"errors": [too_dear(50 * (ROOT + 100 * ROW + 100 * 4))]}


TYPE = "kind name " + "ofType { kind name " * 6 + "}" * 6
SCHEMA = f"types {{ name fields {{ name type {{ {TYPE} }} args {{ name type {{ {TYPE} }} }} }} }}"


async def test_introspection_is_bounded(client: Client) -> None:
    once = await client.post(f"{{ __schema {{ {SCHEMA} }} }}")
    assert "errors" not in once
    answer = without_locations(
        await client.post(f"{{ {' '.join(f'a{i}: __schema {{ {SCHEMA} }}' for i in range(4))} }}")
    )
    (error,) = answer["errors"]
    cost = error["extensions"]["cost"]
    assert cost > INTROSPECTION_COST
    assert answer == {"errors": [too_dear(cost, INTROSPECTION_COST, "introspection")]}


async def test_introspection_in_a_batch_is_bounded(client: Client) -> None:
    whole = {"query": get_introspection_query()}
    first, second = (await client.http.post("/graphql", json=[whole, whole])).json()
    assert "errors" not in first
    assert [error["extensions"]["code"] for error in second["errors"]] == [TOO_COMPLEX]


# ---------------------------------------------------------------- batches


async def test_a_batch_is_answered_in_order(ada: Account) -> None:
    batch = [{"query": "{ __typename }"}, {"query": "{ viewer { email } }"}, {"query": "{ nothing }"}]
    first, second, third = (await ada.http.post("/graphql", json=batch)).json()
    assert (first, second) == ({"data": {"__typename": "Query"}}, {"data": {"viewer": {"email": ada.email}}})
    assert [error["extensions"]["code"] for error in third["errors"]] == ["GRAPHQL_VALIDATION_FAILED"]


async def test_a_batch_has_so_many_operations(client: Client) -> None:
    fine = await client.http.post("/graphql", json=[{"query": "{ __typename }"}] * MAX_BATCH)
    assert fine.json() == [{"data": {"__typename": "Query"}}] * MAX_BATCH
    refused = await client.http.post("/graphql", json=[{"query": "{ __typename }"}] * (MAX_BATCH + 1))
    assert refused.status_code == 400
    assert [error["extensions"]["code"] for error in refused.json()["errors"]] == ["BAD_REQUEST"]


async def test_the_operations_of_a_batch_are_paid_for_together(client: Client) -> None:
    one = {"query": PAGE_OF_ALL, "variables": {"first": 70}, "extensions": {"cost": True}}
    first, second, third = (await client.http.post("/graphql", json=[one] * 3)).json()
    cost = first["extensions"]["cost"]["requested"]
    assert 2 * cost <= LIMIT < 3 * cost
    assert first["data"] == second["data"] != {}
    assert without_locations(third)["errors"] == [too_dear(3 * cost)]
    assert "data" not in third


async def test_operations_of_a_socket_are_paid_for_one_by_one(client: Client) -> None:
    async with client.socket() as socket:
        for _ in range(3):
            assert len([data async for data in socket.subscribe(PAGE_OF_ALL, first=100)]) == 1


# ---------------------------------------------------------------- the tables


def fields() -> dict[str, GraphQLField]:
    return {
        f"{kind.name}.{name}": field
        for kind in schema._schema.type_map.values()
        if is_object_type(kind) or is_interface_type(kind)
        for name, field in kind.fields.items()
    }


def test_every_list_has_a_size() -> None:
    """A new one needs a look at how long it gets."""
    lists = {
        place
        for place, field in fields().items()
        if is_list_type(get_nullable_type(field.type)) and is_composite_type(get_named_type(field.type))
        if PAGE not in field.args and place.split(".")[1] not in {*ITEMS, "errors"}
    }
    assert lists == set(SIZES)


def test_what_is_dear_is_there() -> None:
    assert set(DEAR) <= set(fields())


def test_what_takes_a_length_is_a_list_or_has_items() -> None:
    paged = {place: field for place, field in fields().items() if PAGE in field.args}
    assert {"Query.library", "Media.similar", "Profile.media"} <= set(paged)
    for field in paged.values():
        kind: Any = get_named_type(field.type)
        assert is_list_type(get_nullable_type(field.type)) or set(ITEMS) <= set(kind.fields)
        assert isinstance(field.args[PAGE].default_value, int)
