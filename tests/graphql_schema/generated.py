"""GraphQL requests at random: documents that schemathesis makes of the schema, so changed that they get somewhere.

A document comes with literals alone, and its ids name nothing. Here arguments that name something name what there is,
some become variables, files become parts of a multipart request, and selections meet again in fragments and aliases,
under @skip and @include.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Final

from graphql import (
    ArgumentNode,
    BooleanValueNode,
    DirectiveNode,
    DocumentNode,
    FieldNode,
    GraphQLSchema,
    InlineFragmentNode,
    IntValueNode,
    NamedTypeNode,
    NameNode,
    ObjectFieldNode,
    OperationDefinitionNode,
    OperationType,
    SelectionNode,
    SelectionSetNode,
    StringValueNode,
    TypeInfo,
    TypeInfoVisitor,
    VariableDefinitionNode,
    VariableNode,
    Visitor,
    get_named_type,
    is_composite_type,
    parse,
    parse_type,
    print_ast,
    value_from_ast_untyped,
    visit,
)
from hypothesis import strategies as st
from schemathesis.graphql import nodes, scalar

from tests.client import Json

FILE: Final = "file: "  # how a string begins that stands for a file
KNOWN_CHANCE, VARIABLE_CHANCE, WOVEN_CHANCE = 0.6, 0.4, 0.08
REMEMBERED: Final = 300  # values of one name
# In an answer, what may be said in a later argument: by the argument's name, or by the name of its type.
TELLING: Final = {
    **dict.fromkeys(("id", "mediaId", "deletedId"), "ID"),
    **dict.fromkeys(("cursor", "startCursor", "endCursor"), "after"),
    **{name: name for name in ("publicId", "refreshToken", "sha256", "etag")},
}
DAYS: Final = [
    "1943",
    "1943-05-12",
    "1943~",
    "1940/1945",
    "0001-01-01",
    "9999-12-31T23:59:59Z",
    "2024-02-29T00:00:00+14:00",
]


@dataclass(frozen=True)
class Request:
    document: str
    variables: Json = field(default_factory=dict)
    files: dict[str, str] = field(
        default_factory=dict
    )  # by their paths into the variables: what kind of file is wanted

    @property
    def is_query(self) -> bool:
        return self.document.startswith(("{", "query"))


@dataclass
class Known:
    """Values that mean something, by the name of the argument or of its type."""

    values: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, *values: str) -> None:
        self.values[name] = [*self.values.get(name, []), *values][-REMEMBERED:]

    def learn(self, answer: Any) -> None:
        """From all that an answer tells, however deep."""
        if isinstance(answer, list):
            for each in answer:
                self.learn(each)
        elif isinstance(answer, dict):
            for name, value in answer.items():
                if isinstance(value, str) and name in TELLING:
                    self.add(TELLING[name], value)
                else:
                    self.learn(value)


def register_scalars(kinds: list[str]) -> None:
    """Values of the scalars of ours, of which schemathesis knows the names at most; `kinds` are those of files."""
    anything = st.text(max_size=20)
    scalar("Upload", st.sampled_from(kinds).map(lambda kind: nodes.String(FILE + kind)) | anything.map(nodes.String))
    scalar("FuzzyDate", (st.sampled_from(DAYS) | st.dates().map(str) | anything).map(nodes.String))
    moments = st.datetimes().map(lambda moment: f"{moment.isoformat()}Z")
    scalar("DateTime", (moments | st.sampled_from(DAYS)).map(nodes.String))
    scalar("BigInt", (st.integers(-1, 2**53) | st.integers()).map(nodes.Int))


def prepared(schema: GraphQLSchema, document: str, known: Known, random: Random, *, woven: bool = True) -> Request:
    """The request that this document becomes. `woven`: its selections too are changed."""
    info = TypeInfo(schema)
    named = visit(parse(document, no_location=True), TypeInfoVisitor(info, Naming(info, known, random)))
    said = Saying(info, random)
    told: DocumentNode = visit(named, TypeInfoVisitor(info, said))
    if woven:
        told = visit(told, TypeInfoVisitor(info, Weaving(info, random)))
    return Request(print_ast(told), said.variables, said.files)


def as_subscription(document: str) -> str:
    """A query of the subscription type's fields as what it was made for."""
    node = parse(document, no_location=True)
    definitions = [
        replace(definition, operation=OperationType.SUBSCRIPTION)
        if isinstance(definition, OperationDefinitionNode)
        else definition
        for definition in node.definitions
    ]
    return print_ast(replace(node, definitions=tuple(definitions)))


class Naming(Visitor):
    """Puts what is known in the place of what was made up."""

    def __init__(self, info: TypeInfo, known: Known, random: Random) -> None:
        super().__init__()
        self._info, self._known, self._random = info, known, random
        self._names: list[str] = []

    def enter_argument(self, node: ArgumentNode, *_: Any) -> None:
        self._names.append(node.name.value)

    def leave_argument(self, *_: Any) -> None:
        self._names.pop()

    def enter_object_field(self, node: ObjectFieldNode, *_: Any) -> None:
        self._names.append(node.name.value)

    def leave_object_field(self, *_: Any) -> None:
        self._names.pop()

    def enter_string_value(self, node: StringValueNode, *_: Any) -> StringValueNode | None:
        type_ = get_named_type(self._info.get_input_type())
        if type_ is None or not self._names or self._random.random() > KNOWN_CHANCE:
            return None
        values = self._known.values
        likely = values.get(self._names[-1]) or values.get(type_.name)
        return StringValueNode(value=self._random.choice(likely)) if likely else None

    def enter_int_value(self, node: IntValueNode, *_: Any) -> StringValueNode | None:
        type_ = get_named_type(self._info.get_input_type())
        is_id = type_ is not None and type_.name == "ID"
        return self.enter_string_value(StringValueNode(value=node.value)) if is_id else None


class Saying(Visitor):
    """Says some arguments by variables, and those with files always."""

    def __init__(self, info: TypeInfo, random: Random) -> None:
        super().__init__()
        self._info, self._random = info, random
        self._types: dict[str, str] = {}
        self.variables: Json = {}
        self.files: dict[str, str] = {}

    def leave_argument(self, node: ArgumentNode, *_: Any) -> ArgumentNode | None:
        argument = self._info.get_argument()
        value = value_from_ast_untyped(node.value)
        has_files = FILE in json.dumps(value)
        if argument is None or not (has_files or self._random.random() < VARIABLE_CHANCE):
            return None
        name = f"v{len(self.variables)}"
        try:
            json.dumps(value, allow_nan=False)
        except ValueError:  # 1e999 is a literal, and no JSON
            return None
        self.files |= dict(_files(value, name))
        self.variables[name] = _without_files(value)
        self._types[name] = str(argument.type)
        return ArgumentNode(name=node.name, value=VariableNode(name=NameNode(value=name)))

    def leave_operation_definition(self, node: OperationDefinitionNode, *_: Any) -> OperationDefinitionNode:
        definitions = [
            VariableDefinitionNode(
                variable=VariableNode(name=NameNode(value=name)), type=parse_type(type_), directives=()
            )
            for name, type_ in self._types.items()
        ]
        return replace(node, variable_definitions=tuple(definitions))


def _files(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str) and value.startswith(FILE):
        yield path, value.removeprefix(FILE)
    elif isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _files(each, f"{path}.{key}")


def _without_files(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_files(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_files(each) for each in value]
    return None if isinstance(value, str) and value.startswith(FILE) else value


class Weaving(Visitor):
    """Asks for fields once more, in fragments, by other names, and not after all."""

    def __init__(self, info: TypeInfo, random: Random) -> None:
        super().__init__()
        self._info, self._random = info, random
        self._aliases = 0

    def leave_selection_set(self, node: SelectionSetNode, *_: Any) -> SelectionSetNode | None:
        parent = self._info.get_parent_type()
        # A mutation's root fields would run twice; a subscription has one.
        if parent is None or parent.name in {"Mutation", "Subscription"} or not is_composite_type(parent):
            return None
        woven = [each for selection in node.selections for each in self._woven(selection, parent.name)]
        if self._random.random() < WOVEN_CHANCE:
            woven.append(FieldNode(name=NameNode(value="__typename"), arguments=(), directives=()))
        return SelectionSetNode(selections=tuple(woven))

    def _woven(self, selection: SelectionNode, parent: str) -> list[SelectionNode]:
        chance = self._random.random() / WOVEN_CHANCE
        if chance < 1:
            return [self._fragment(selection, parent, self._condition())]
        if chance < 2:
            return [selection, self._fragment(selection, parent, ())]
        if chance < 3 and isinstance(selection, FieldNode):
            self._aliases += 1
            alias = NameNode(value=f"again{self._aliases}")
            return [selection, replace(selection, alias=alias, directives=self._condition())]
        return [selection]

    def _fragment(self, selection: SelectionNode, parent: str, directives: Any) -> InlineFragmentNode:
        return InlineFragmentNode(
            type_condition=NamedTypeNode(name=NameNode(value=parent)),
            directives=directives,
            selection_set=SelectionSetNode(selections=(selection,)),
        )

    def _condition(self) -> tuple[DirectiveNode, ...]:
        name, value = self._random.choice([("skip", False), ("skip", True), ("include", True), ("include", False)])
        condition = ArgumentNode(name=NameNode(value="if"), value=BooleanValueNode(value=value))
        return (DirectiveNode(name=NameNode(value=name), arguments=(condition,)),)


def null_above(data: Any, path: list[str | int]) -> list[str | int]:
    """Where the answer is null for an error at this place."""
    for length, step in enumerate(path):
        if data is None:
            return path[:length]
        data = data[step]
    assert data is None
    return path
