"""Documents: parsed, bounded, validated, their operations' cost told. What one is found to be is remembered with it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, Final

from graphql import (
    DocumentNode,
    GraphQLError,
    GraphQLSchema,
    OperationDefinitionNode,
    OverlappingFieldsCanBeMergedRule,
    parse,
    recommended_rules,
    specified_rules,
    validate,
)
from graphql.validation.rules import overlapping_fields_can_be_merged
from strawberry.schema.validation_rules.maybe_null import MaybeNullValidationRule

from graphql_schema.cost import Cost, cost, page_variables
from graphql_schema.limits import MAX_TOKENS, Limits, faults
from graphql_schema.trusted import TrustedDocuments

# Texts are kept, too, and with them what comments and strings say: 4 bytes a letter, three times at most.
LETTERS_A_TOKEN: Final = 32
CACHED_COSTS: Final = 50  # of one document, with other pages
RULES: Final = (*specified_rules, *recommended_rules, MaybeNullValidationRule)
# All that can say what was perhaps meant, and not the dearest.
HELPFUL_RULES: Final = tuple(rule for rule in RULES if rule is not OverlappingFieldsCanBeMergedRule)
MAX_ERRORS: Final = 20  # of one document
HELPED_ERRORS: Final = 5  # for so many, names that were perhaps meant are looked for, which takes a millisecond each

# The only bound on a comparison of all fields with each other; stock, it takes a second. A dozen
# fragments that ask the same dozen things of a media spend 4,000.
overlapping_fields_can_be_merged.MAX_COMPLEXITY_BUDGET = 8_000


class Prepared:
    """A document that was parsed; the rest is found out when it is first asked for."""

    def __init__(self, schema: GraphQLSchema, text: str) -> None:
        """Raises GraphQLSyntaxError."""
        self.document: DocumentNode = _unchained(parse(text, max_tokens=MAX_TOKENS))
        self.weight = self.document.token_count + len(text) // LETTERS_A_TOKEN
        self._schema = schema
        self._faults: dict[Limits, list[GraphQLError]] = {}
        self._pages: tuple[str, ...] | None = None
        self._costs: dict[tuple[Any, ...], Cost] = {}

    def faults(self, limits: Limits) -> list[GraphQLError]:
        if limits not in self._faults:
            self._faults[limits] = faults(self.document, limits) or self._validated()
        return self._faults[limits]

    def _validated(self) -> list[GraphQLError]:
        found = validate(self._schema, self.document, RULES, max_errors=MAX_ERRORS, hide_suggestions=True)
        if 0 < len(found) <= HELPED_ERRORS:
            helpful = validate(self._schema, self.document, HELPFUL_RULES, max_errors=MAX_ERRORS)
            found = helpful if len(helpful) == len(found) else found
        # A literal that can't be parsed is the document's fault, whatever was raised: `coded` would not know it.
        return [GraphQLError(error.message, error.nodes) if error.original_error else error for error in found]

    def cost(self, operation: OperationDefinitionNode, variables: Mapping[str, Any] | None, most: int) -> Cost:
        if self._pages is None:
            self._pages = page_variables(self.document)
        sizes = {name: variables[name] for name in self._pages if name in variables} if variables else {}
        key = (operation.name and operation.name.value, most, *sizes.items())
        try:
            return self._costs[key]
        except (KeyError, TypeError):  # a list is no size, and no key; it is refused as soon as it is coerced
            pass
        found = cost(self._schema, self.document, operation, sizes, most=most)
        if len(self._costs) < CACHED_COSTS and all(isinstance(size, int) for size in sizes.values()):
            self._costs[key] = found
        return found


def _unchained(document: DocumentNode) -> DocumentNode:
    """Without the links between its tokens, which nobody follows.

    By them a document that is dropped is a circle, and after its time here only the rarest of collections finds those:
    of a client that always says something new, 200 bytes a token would pile up.
    """
    token = document.loc.start_token if document.loc else None
    while token:
        following, token.prev, token.next = token.next, None, None
        token = following
    return document


class PreparedDocuments:
    """Those last used, up to so many tokens in all, or letters in place of them."""

    def __init__(self, schema: GraphQLSchema, *, most_tokens: int) -> None:
        self._schema = schema
        self._most_tokens = most_tokens
        self._prepared: OrderedDict[str, Prepared] = OrderedDict()
        self._tokens = 0

    def get(self, text: str) -> Prepared:
        """Raises GraphQLSyntaxError."""
        if text in self._prepared:
            self._prepared.move_to_end(text)
            return self._prepared[text]
        prepared = self._prepared[text] = Prepared(self._schema, text)
        self._tokens += prepared.weight
        while self._tokens > self._most_tokens:
            _, dropped = self._prepared.popitem(last=False)
            self._tokens -= dropped.weight
        return prepared


def refused(prepared: PreparedDocuments, trusted: TrustedDocuments, limits: Limits) -> Iterator[tuple[str, str]]:
    """The ids of trusted documents that would not be executed, whatever their variables, and why."""
    for document_id, text in trusted.by_id.items():
        try:
            found = prepared.get(text).faults(limits)
        except GraphQLError as error:
            found = [error]
        if found:
            yield document_id, found[0].message
