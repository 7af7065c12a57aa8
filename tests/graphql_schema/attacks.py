"""Documents that ask a little and would cost a lot; and what each is told instead."""

from __future__ import annotations

from typing import Final

from graphql import GraphQLError, get_operation_ast

from graphql_schema.documents import Prepared
from graphql_schema.limits import MAX_DIRECTIVES, MAX_FIELDS, MAX_FRAGMENTS, MAX_OPERATIONS, MAX_TOKENS, SHOWN, Limits
from graphql_schema.schema import schema

ABORTED: Final = "Validation aborted."
TOO_MANY_TOKENS: Final = f"Syntax Error: Document contains more than {MAX_TOKENS} tokens. Parsing aborted."
TOO_MANY_ERRORS: Final = "Too many validation errors, error limit reached. Validation aborted."
LAST: Final = MAX_FRAGMENTS - 1  # of the numbers of fragments, from 0


def too_complex(name: str, count: int, limit: int, what: str = "operation") -> str:
    return f"The {what} is too complex: {name} {count}, at most {limit}."


def each(template: str, number: int) -> str:
    """The template so many times, each with its number for `#`, and the next one for `@`."""
    return " ".join(template.replace("#", str(index)).replace("@", str(index + 1)) for index in range(number))


def doubling(levels: int, last: str, kind: str = "Query") -> str:
    return f"{each(f'fragment F# on {kind} {{ ...F@ ...F@ }}', levels)} fragment F{levels} on {kind} {{ {last} }}"


def nested(opening: str, levels: int, inner: str, closing: str = "}") -> str:
    return f"{opening} " * levels + inner + f" {closing}" * levels


REFERENCES = nested("ofType { kind name", 6, "kind")
BRANCHING = each("fragment F# on __Type { a: ofType { ...F@ } b: ofType { ...F@ } }", 12)
DEEPENING = each("fragment F# on Media { entity { media { nodes { ...F@ } } } }", 40)
STACKED = each(f"fragment F# on Query {{ {nested('... {', 4, '...F@')} }}", LAST)
PAGING = each("fragment F# on Query { ...F@ library(first: $n) { totalCount } }", LAST)
OTHERS = each("...F#", 24)
SEARCH = 'library(filter: {tags: ["a"]}) { totalCount } '
SIGN_IN = 'a#: login(input: {email: "a@example.org", password: "a"}) { accessToken }'

ATTACKS: Final[dict[str, tuple[str, str]]] = {
    "fragments that double": (
        f"{{ ...F0 }} {doubling(LAST, '__typename')}",
        too_complex("fields", SHOWN, MAX_FIELDS),
    ),
    "fragments that double lists": (
        f"{{ ...F0 }} {doubling(10, 'library { nodes { id } }')}",
        too_complex("fields", 3 * 2**10, MAX_FIELDS),
    ),
    "fragments that double in a subscription": (
        f"subscription {{ ...F0 }} {doubling(LAST, 'mediaProcessing(mediaId: 1) { percent }', 'Subscription')}",
        too_complex("fields", SHOWN, MAX_FIELDS),
    ),
    "a fragment of itself": (
        "{ ...A } fragment A on Query { ...A library { nodes { id } } }",
        "Cannot spread fragment 'A' within itself.",
    ),
    "fragments of each other": (
        "{ ...A } fragment A on Query { ...B __typename } fragment B on Query { ...A __typename }",
        "Cannot spread fragment 'A' within itself via 'B'.",
    ),
    "fragments of all others": (
        f"{{ ...F0 }} {' '.join(f'fragment F{i} on Query {{ {OTHERS} }}' for i in range(24))}",
        "Cannot spread fragment 'F0' within itself.",
    ),
    "a chain of fragments": (
        f"{{ ...F0 }} {each('fragment F# on Media { id }', MAX_FRAGMENTS + 1)}",
        too_complex("fragments", MAX_FRAGMENTS + 1, MAX_FRAGMENTS, "document"),
    ),
    "aliases": (f"{{ {each('a#: library(first: 100) { totalCount }', 140)} }}", too_complex("aliases", 140, 50)),
    "depth": (
        f"{{ library {{ nodes {{ {nested('entity { media { nodes {', 30, 'id', '} } }')} }} }} }}",
        too_complex("depth", 93, 12),
    ),
    "depth through fragments": (
        f"{{ library {{ nodes {{ ...F0 }} }} }} {DEEPENING} fragment F40 on Media {{ id }}",
        too_complex("depth", 123, 12),
    ),
    "depth beyond the parser's": (
        f"{{ {nested('... {', 300, '__typename')} }}",
        "Syntax Error: Document is nested too deeply. Parsing aborted.",
    ),
    "fragments deeper than the stack": (
        f"{{ ...F0 }} {STACKED} fragment F{LAST} on Query {{ __typename }}",
        too_complex("depth", 201, 12, "document"),
    ),
    "directives": (f"{{ {'__typename @skip(if: false) ' * 100} }}", too_complex("directives", 100, MAX_DIRECTIVES)),
    "operations": (
        each("query Q# { __typename }", 300),
        too_complex("operations", 300, MAX_OPERATIONS, "document"),
    ),
    "operations with all fragments": (
        f"{each('query Q#($n: Int) { ...F0 }', MAX_OPERATIONS)} {PAGING} fragment F{LAST} on Query {{ __typename }}",
        ABORTED,
    ),
    "fields again and again": (
        f"{{ library {{ nodes {{ {'url ' * 1500} }} }} }}",
        too_complex("fields", 1502, MAX_FIELDS),
    ),
    "overlapping fields": (f"{{ library {{ nodes {{ {'url ' * (MAX_FIELDS - 2)} }} }} }}", ABORTED),
    "overlapping lists": (f"{{ library {{ {'nodes { id } ' * 299} }} }}", ABORTED),
    "overlapping arguments": (f"{{ {SEARCH * 100} }}", ABORTED),
    "overlapping fragments": (
        f"{{ library {{ nodes {{ {each('...F#', LAST)} }} }} }} "
        f"{each('fragment F# on Media { id url entity { id } owner { id } }', LAST)}",
        ABORTED,
    ),
    "overlapping depths": (f"{{ {'library { nodes { entity { media { nodes { id } } } } } ' * 99} }}", ABORTED),
    "unknown fields": (f"{{ {each('medi#', 599)} }}", TOO_MANY_ERRORS),
    "unknown arguments": (f"{{ library({each('fir#: 1', 500)}) {{ totalCount }} }}", TOO_MANY_ERRORS),
    "unknown types": (f"{{ {each('... on Medi# { id }', 260)} }}", ABORTED),
    "a name without end": (f"{{ {'a' * 32_000} }}", f"Cannot query field '{'a' * 900}"),
    "values that are none": (f"{{ library(filter: {{kinds: [{'A ' * 1_500}]}}) {{ totalCount }} }}", TOO_MANY_ERRORS),
    "literals within each other": (
        f"{{ library(filter: {nested('{a:', 150, '1')}) {{ totalCount }} }}",
        "Expected value of type 'MediaFilter' not to include unknown field 'a', found: ",
    ),
    "lists within each other": (
        f"{{ library(filter: {nested('[', 190, '1', ']')}) {{ totalCount }} }}",
        "Expected value of type 'MediaFilter' to be an object, found: ",
    ),
    "a number without end": (
        f"{{ library(first: {'9' * 30_000}) {{ totalCount }} }}",
        "Expected value of type 'Int', but encountered error 'Exceeds the limit (4300 digits) for integer string",
    ),
    "variables": (f"query({each('$v#: Int', 600)}) {{ __typename }}", TOO_MANY_TOKENS),
    "variables for nothing": (f"query({each('$v#: Int', 390)}) {{ __typename }}", TOO_MANY_ERRORS),
    "comments": ("{ __typename }" + "#\n" * 16_000, TOO_MANY_TOKENS),
    "introspection of introspection": (
        "{ __schema { types { fields { type { fields { type { fields { type { name } } } } } } } } }",
        "Maximum introspection depth exceeded",
    ),
    "introspection in depth": (
        f"{{ __schema {{ types {{ {nested('ofType {', 150, 'name')} }} }} }}",
        too_complex("depth", 152, 20, "introspection"),
    ),
    "introspection that branches": (
        f"{{ __schema {{ types {{ ...F0 }} }} }} {BRANCHING} fragment F12 on __Type {{ name }}",
        too_complex("fields", 3 * 2**12 - 1, 400, "introspection"),
    ),
    "introspection again and again": (
        f"{{ {each(f'a#: __schema {{ types {{ fields {{ args {{ type {{ {REFERENCES} }} }} }} }} }}', 20)} }}",
        "The introspection is too complex: ",
    ),
    "pages of pages": (
        "{ library(first: 100) { nodes { entity { media(first: 100) { nodes { id } } } } } }",
        too_complex("cost", 550 + 100 * (1 + 1 + 550 + 200), 25_000),
    ),
    "pages by other names": (
        f"{{ {each('a#: library(first: 100) { nodes { id url title } }', 50)} }}",
        too_complex("cost", 50 * (550 + 400), 25_000),
    ),
    "look-alikes of look-alikes": (
        "{ library(first: 50) { nodes { similar(first: 50) { media { similar(first: 50) { distance } } } } } }",
        too_complex("cost", 300 + 50 * (1 + 300 + 50 * (1 + 300 + 50)), 25_000),
    ),
    "sign-ins": (
        f"mutation {{ {each(SIGN_IN, 11)} }}",
        "A mutation has at most 10 root fields.",
    ),
}


def prepared(document: str) -> None:
    """All that the server does about a document before it is executed, with nothing known of it."""
    try:
        found = Prepared(schema._schema, document)
    except GraphQLError:
        return
    if not found.faults(Limits(12, 50)):
        operation = get_operation_ast(found.document)
        assert operation is not None
        found.cost(operation, {}, 100)
