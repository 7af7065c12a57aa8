"""What a document may ask for at once, before it is validated: how deep, how wide, and how often by other names.

Every count is of an operation as it is executed, its fragments included wherever they are spread; each fragment is
looked at once, however often that is. Introspection has bounds of its own: GraphiQL's goes deeper than any page.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    InlineFragmentNode,
    OperationDefinitionNode,
    OperationType,
    SelectionNode,
    SelectionSetNode,
)

TOO_COMPLEX: Final = "QUERY_TOO_COMPLEX"
SHOWN: Final = 2**53 - 1  # of counts: fragments double them, and JSON ends somewhere

MAX_TOKENS: Final = 1_600  # of a document; GraphiQL's introspection query has 400
# A document of more is a client's whole library; and several rules of validation look at each operation with each
# fragment that it reaches.
MAX_OPERATIONS: Final = 10
MAX_FRAGMENTS: Final = 60
# A hundred sign-ins under as many aliases would hold the password hasher for seconds.
ROOT_MUTATIONS: Final = 10
MAX_FIELDS: Final = 600  # of an operation; the whole schema has 250
MAX_DIRECTIVES: Final = 50
NESTED: Final = 200  # selection sets within each other, fragments included: the parser's own bound within one
MAX_VALUES: Final = 20_000  # in the variables; the parts of the largest upload make 12,000
MAX_VALUE_DEPTH: Final = 20  # of lists and objects in the variables; the schema's inputs have 4
INTROSPECTION: Final = ("__schema", "__type")


class Limits(NamedTuple):
    """What the deployment sets of it."""

    depth: int
    aliases: int


class Shape(NamedTuple):
    """Of a selection set: `roots` are its own fields, all else counts what is below them too."""

    roots: int = 0
    depth: int = 0
    fields: int = 0
    aliases: int = 0
    directives: int = 0

    def beside(self, other: Shape) -> Shape:
        return Shape(
            self.roots + other.roots,
            max(self.depth, other.depth),
            self.fields + other.fields,
            self.aliases + other.aliases,
            self.directives + other.directives,
        )


NOTHING: Final = Shape()
# GraphiQL's has a depth of 14 and 228 fields; those of other tools are much the same.
MOST_OF_INTROSPECTION: Final = Shape(depth=20, fields=400, aliases=10, directives=10)


def faults(document: DocumentNode, limits: Limits) -> list[GraphQLError]:
    """What is too much about a document. It need not be valid: fragments may be missing, or spread themselves."""
    operations = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
    fragments = {node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)}
    counts = {
        "operations": (len(operations), MAX_OPERATIONS),
        "fragments": (len(document.definitions) - len(operations), MAX_FRAGMENTS),
    }
    if found := list(_exceeded("document", counts)):
        return found
    shapes = _Shapes(fragments)
    try:
        found = [fault for node in operations for fault in _faults_of(node, shapes.of(node.selection_set), limits)]
    except RecursionError:
        return list(_exceeded("document", {"depth": (NESTED + 1, limits.depth)}))
    return [*found, *_exceeded("introspection", _compared(shapes.introspection, MOST_OF_INTROSPECTION))]


def _faults_of(node: OperationDefinitionNode, shape: Shape, limits: Limits) -> Iterator[GraphQLError]:
    if node.operation is OperationType.MUTATION and shape.roots > ROOT_MUTATIONS:
        yield GraphQLError(f"A mutation has at most {ROOT_MUTATIONS} root fields.", node)
    most = Shape(depth=limits.depth, fields=MAX_FIELDS, aliases=limits.aliases, directives=MAX_DIRECTIVES)
    own = Shape(directives=len(node.directives or ()))
    yield from _exceeded("operation", _compared(own.beside(shape), most), node)


def _compared(shape: Shape, most: Shape) -> dict[str, tuple[int, int]]:
    return {name: (getattr(shape, name), getattr(most, name)) for name in ("depth", "fields", "aliases", "directives")}


def _exceeded(what: str, counts: dict[str, tuple[int, int]], *nodes: Any) -> Iterator[GraphQLError]:
    for name, (count, limit) in counts.items():
        if count > limit:
            yield too_complex(what, name, count, limit, *nodes)


def too_complex(what: str, name: str, count: int, limit: int, *nodes: Any) -> GraphQLError:
    count = min(count, SHOWN)
    extensions = {"code": TOO_COMPLEX, name: count, "limit": limit}
    return GraphQLError(
        f"The {what} is too complex: {name} {count}, at most {limit}.", list(nodes), extensions=extensions
    )


class _Shapes:
    """Each fragment is measured once."""

    def __init__(self, fragments: dict[str, FragmentDefinitionNode]) -> None:
        self._fragments = fragments
        self._measured: dict[str, Shape] = {}
        self._nested = 0
        self.introspection = NOTHING  # of all operations together

    def of(self, selections: SelectionSetNode) -> Shape:
        """Raises RecursionError for what nests too deeply to be followed."""
        self._nested += 1
        if self._nested > NESTED:
            raise RecursionError
        shape = NOTHING
        for selection in selections.selections:
            shape = shape.beside(self._selection(selection))
        self._nested -= 1
        return shape

    def _selection(self, selection: SelectionNode) -> Shape:
        own = Shape(directives=len(selection.directives or ()))
        if isinstance(selection, FieldNode):
            return own.beside(self._field(selection))
        if isinstance(selection, InlineFragmentNode):
            return own.beside(self.of(selection.selection_set))
        assert isinstance(selection, FragmentSpreadNode)
        return own.beside(self._fragment(selection.name.value))

    def _field(self, field: FieldNode) -> Shape:
        below = self.of(field.selection_set) if field.selection_set else NOTHING
        aliases = int(field.alias is not None)
        if field.name.value in INTROSPECTION:
            self.introspection = self.introspection.beside(below)
            return Shape(1, 1, 1, aliases)
        return Shape(1, 1 + below.depth, 1 + below.fields, aliases + below.aliases, below.directives)

    def _fragment(self, name: str) -> Shape:
        if name not in self._measured:
            self._measured[name] = NOTHING  # for one that spreads itself, which validation refuses
            fragment = self._fragments.get(name)
            self._measured[name] = self.of(fragment.selection_set) if fragment else NOTHING
        return self._measured[name]


def faults_of_values(variables: dict[str, Any] | None) -> list[GraphQLError]:
    """What is too much about the variables, before they are coerced one by one."""
    if not variables:
        return []
    count, depth = 0, 0
    ahead: list[tuple[Any, int]] = [(variables, 0)]
    while ahead and count <= MAX_VALUES and depth <= MAX_VALUE_DEPTH:
        value, depth = ahead.pop()
        inner = value.values() if isinstance(value, dict) else value
        count += len(inner)
        ahead += [(each, depth + 1) for each in inner if isinstance(each, dict | list)]
    return list(_exceeded("set of variables", {"values": (count, MAX_VALUES), "depth": (depth, MAX_VALUE_DEPTH)}))
