"""What a document may ask for at once."""

from __future__ import annotations

from typing import Any, Final

from graphql import (
    FieldNode,
    FragmentSpreadNode,
    GraphQLError,
    InlineFragmentNode,
    OperationDefinitionNode,
    OperationType,
    SelectionSetNode,
    ValidationContext,
    ValidationRule,
)

# A hundred sign-ins under as many aliases would hold the password hasher for seconds.
ROOT_MUTATIONS: Final = 10


class FewMutations(ValidationRule):
    """At most ROOT_MUTATIONS root fields in one mutation, those of fragments included."""

    def __init__(self, context: ValidationContext) -> None:
        super().__init__(context)
        self._counted: dict[str, int] = {}

    def enter_operation_definition(self, node: OperationDefinitionNode, *_: Any) -> None:
        if node.operation is OperationType.MUTATION and self._count(node.selection_set) > ROOT_MUTATIONS:
            self.report_error(GraphQLError(f"A mutation has at most {ROOT_MUTATIONS} root fields.", node))

    def _count(self, selections: SelectionSetNode) -> int:
        total = 0
        for selection in selections.selections:
            if isinstance(selection, FieldNode):
                total += 1
            elif isinstance(selection, InlineFragmentNode):
                total += self._count(selection.selection_set)
            elif isinstance(selection, FragmentSpreadNode):
                total += self._count_fragment(selection.name.value)
        return total

    def _count_fragment(self, name: str) -> int:
        if name not in self._counted:
            self._counted[name] = 0  # for one that spreads itself, which another rule refuses
            fragment = self.context.get_fragment(name)
            self._counted[name] = self._count(fragment.selection_set) if fragment else 0
        return self._counted[name]
