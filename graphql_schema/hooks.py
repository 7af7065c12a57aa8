"""Strawberry's hooks of extensions, looked up once: stock inspects and wraps each of them anew for every operation.

That is a twelfth of the time of a small request.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from functools import cache, partial
from inspect import isasyncgenfunction, isgeneratorfunction
from typing import Any, TypeAlias

from strawberry.extensions import SchemaExtension
from strawberry.extensions.context import (
    ExecutingContextManager,
    ExtensionContextManagerBase,
    OperationContextManager,
    ParsingContextManager,
    ValidationContextManager,
    WrappedHook,
)
from strawberry.extensions.runner import SchemaExtensionsRunner

Block: TypeAlias = AbstractContextManager[None] | AbstractAsyncContextManager[None]


class LookedUpOnce(ExtensionContextManagerBase):
    def get_hook(self, extension: SchemaExtension) -> WrappedHook | None:
        kind: Any = type(extension)
        found = _hook(kind, self.HOOK_NAME)
        if found is None:
            return None
        block, is_async = found
        return WrappedHook(extension, partial(block, extension), is_async)


@cache
def _hook(kind: type[SchemaExtension], name: str) -> tuple[Callable[[Any], Block], bool] | None:
    """What runs around a stage, and whether it is async. Raises TypeError for what is no generator, as ours all are."""
    hook: Any = getattr(kind, name)
    if hook is getattr(SchemaExtension, name):
        return None
    if isasyncgenfunction(hook):
        return asynccontextmanager(hook), True
    if isgeneratorfunction(hook):
        return contextmanager(hook), False
    raise TypeError(f"{kind.__name__}.{name} is no generator")


class _Operation(LookedUpOnce, OperationContextManager):
    pass


class _Parsing(LookedUpOnce, ParsingContextManager):
    pass


class _Validation(LookedUpOnce, ValidationContextManager):
    pass


class _Executing(LookedUpOnce, ExecutingContextManager):
    pass


class Hooks(SchemaExtensionsRunner):
    def operation(self) -> OperationContextManager:
        return _Operation(self.extensions)

    def parsing(self) -> ParsingContextManager:
        return _Parsing(self.extensions)

    def validation(self) -> ValidationContextManager:
        return _Validation(self.extensions)

    def executing(self) -> ExecutingContextManager:
        return _Executing(self.extensions)
