"""What an operation costs: a field of one object is 1, and a list multiplies what is asked of each of its items.

A list costs its length even if little is asked of its items, since their rows are read.

It is known before anything is executed, from the document and the variables; what `@skip` leaves out counts too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, cast

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLCompositeType,
    GraphQLField,
    GraphQLSchema,
    InlineFragmentNode,
    IntValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    ValueNode,
    VariableNode,
    Visitor,
    get_named_type,
    get_nullable_type,
    is_list_type,
    type_from_ast,
    visit,
)

from graphql_schema.limits import INTROSPECTION
from processing.variants import VariantName

PAGE: Final = "first"  # the argument that says how many
ITEMS: Final = ("edges", "nodes")  # of a connection: what there are `first` of
# For what asks the database or the storage by itself, which takes as long as fifty fields: each root field, each that
# takes `first`, and these.
STATEMENT: Final = 50
ROW: Final = 5  # of a list that takes `first`: to read it takes as long as five fields
TEXT: Final = 25
DEAR: Final = {
    "MediaConnection.totalCount": STATEMENT,
    "UploadSession.parts": STATEMENT,
    "UploadSession.uploadedParts": STATEMENT,
    # What people write may be long, and under many names it is sent many times.
    "Media.description": TEXT,
    "Media.altText": TEXT,
    "Media.exif": TEXT,
    "Person.biography": TEXT,
    "Profile.bio": TEXT,
    "UploadPart.url": 20,
    # An Argon2 hash takes longer than a page of a hundred media.
    "Mutation.login": 10_000,
    "Mutation.register": 10_000,
}
# How long a list is that takes no `first`, at most or (~) as a rule.
SIZES: Final = {
    "Media.variants": len(VariantName),
    "MediaBatchPayload.results": 100,  # ~ settings.max_page and max_files
    "UploadSession.headers": 3,
    "UploadPart.headers": 1,  # ~
    "UploadSession.parts": 100,  # ~ each operation has a budget of signatures besides: promises.MOST_PARTS
    "UploadSession.uploadedParts": 100,  # ~
    "Viewer.uploadSessions": 10,  # ~ promises.OPEN_AT_ONCE are the most
    "__Schema.types": 100,
    "__Schema.directives": 6,
    "__Type.fields": 6,
    "__Type.inputFields": 2,
    "__Type.enumValues": 2,
    "__Type.interfaces": 2,
    "__Type.possibleTypes": 2,
    "__Field.args": 2,
    "__Directive.args": 2,
}
OTHER_SIZE: Final = 2  # of `errors`


class Cost(NamedTuple):
    """`introspection` is counted by itself: it needs no database, and GraphiQL's is dearer than any page."""

    operation: int
    introspection: int


class Sum(NamedTuple):
    """Of a selection set: what is had once, and what is had of each item of the page around it."""

    once: int = 0
    each: int = 0


def cost(
    schema: GraphQLSchema,
    document: DocumentNode,
    operation: OperationDefinitionNode,
    variables: Mapping[str, Any] | None,
    *,
    most: int,
) -> Cost:
    """Of an operation of a document that is valid. No page is longer than `most`: asked for more, resolvers refuse."""
    counted = _Costs(schema, document, operation, variables or {}, most)
    root = schema.get_root_type(operation.operation)
    assert root is not None
    total = counted.of(root, operation.selection_set)
    return Cost(total.once + total.each, counted.introspection)


def page_variables(document: DocumentNode) -> tuple[str, ...]:
    """The variables on which costs depend."""
    found = _PageVariables()
    visit(document, found)
    return tuple(sorted(found.names))


class _PageVariables(Visitor):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def enter_argument(self, node: Any, *_: Any) -> None:
        if node.name.value == PAGE and isinstance(node.value, VariableNode):
            self.names.add(node.value.name.value)


class _Costs:
    """Each fragment is counted once, however often it is spread."""

    def __init__(
        self,
        schema: GraphQLSchema,
        document: DocumentNode,
        operation: OperationDefinitionNode,
        variables: Mapping[str, Any],
        most: int,
    ) -> None:
        self._schema = schema
        self._fragments = {
            node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)
        }
        self._defaults = {each.variable.name.value: each.default_value for each in operation.variable_definitions or ()}
        self._variables = variables
        self._most = most
        self._counted: dict[str, Sum] = {}
        self.introspection = 0

    def of(self, parent: GraphQLCompositeType, selections: SelectionSetNode) -> Sum:
        once = each = 0
        for selection in selections.selections:
            if isinstance(selection, FieldNode):
                field = self._field(parent, selection)
            elif isinstance(selection, InlineFragmentNode):
                field = self.of(self._narrowed(parent, selection), selection.selection_set)
            else:
                field = self._fragment(cast(FragmentSpreadNode, selection).name.value)
            once += field.once
            each += field.each
        return Sum(once, each)

    def _narrowed(self, parent: GraphQLCompositeType, node: InlineFragmentNode) -> GraphQLCompositeType:
        if node.type_condition is None:
            return parent
        return cast(GraphQLCompositeType, type_from_ast(self._schema, node.type_condition))

    def _fragment(self, name: str) -> Sum:
        if name not in self._counted:
            fragment = self._fragments[name]
            parent = cast(GraphQLCompositeType, type_from_ast(self._schema, fragment.type_condition))
            self._counted[name] = self.of(parent, fragment.selection_set)
        return self._counted[name]

    def _field(self, parent: GraphQLCompositeType, node: FieldNode) -> Sum:
        name = node.name.value
        definition = self._schema.get_field(parent, name)
        assert definition is not None
        if node.selection_set is None:
            return Sum(DEAR.get(f"{parent.name}.{name}", 1))
        below = self.of(cast(GraphQLCompositeType, get_named_type(definition.type)), node.selection_set)
        if name in INTROSPECTION:
            self.introspection += below.once
            return Sum(1)
        if name in ITEMS:
            return Sum(0, 1 + below.once)
        return Sum(self._own(parent, name, definition) + self._all(parent, node, definition, below))

    def _own(self, parent: GraphQLCompositeType, name: str, definition: GraphQLField) -> int:
        asks = PAGE in definition.args or parent in (self._schema.query_type, self._schema.mutation_type)
        return DEAR.get(f"{parent.name}.{name}", STATEMENT if asks else 1)

    def _all(self, parent: GraphQLCompositeType, node: FieldNode, definition: GraphQLField, below: Sum) -> int:
        is_list = is_list_type(get_nullable_type(definition.type))
        if PAGE in definition.args:
            size = self._page(node, definition)
            return size * ROW + (size * below.once if is_list else below.once + size * below.each)
        size = SIZES.get(f"{parent.name}.{node.name.value}", OTHER_SIZE) if is_list else 1
        return size * below.once

    def _page(self, node: FieldNode, definition: GraphQLField) -> int:
        given = next((argument.value for argument in node.arguments or () if argument.name.value == PAGE), None)
        size = self._number(given)
        if not isinstance(size, int | float):  # null, or a variable that is no number: that is refused as it is coerced
            size = definition.args[PAGE].default_value
        return max(0, min(int(size), self._most))

    def _number(self, node: ValueNode | None) -> Any:
        if isinstance(node, VariableNode):
            name = node.name.value
            return self._variables[name] if name in self._variables else self._number(self._defaults[name])
        return int(node.value) if isinstance(node, IntValueNode) else None
