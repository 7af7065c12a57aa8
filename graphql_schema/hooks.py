"""The hooks of extensions, run without what Strawberry does for each operation: it inspects every extension for every
stage, wraps what it finds, and stacks that up. A seventh of the time of a small request.

A hook is a generator, sync or async: before its `yield` the stage is to come, after it the stage is over, or what it
raised is raised there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from inspect import isasyncgenfunction, isgeneratorfunction
from types import TracebackType
from typing import Any

from strawberry.extensions import SchemaExtension
from strawberry.extensions.runner import SchemaExtensionsRunner


class Stage:
    def __init__(self, name: str, extensions: Sequence[SchemaExtension]) -> None:
        self._name = name
        self._extensions = extensions
        self._begun: list[Any] = []

    async def __aenter__(self) -> None:
        try:
            for extension in self._extensions:
                await self._begin(extension)
        except BaseException as error:
            # What has begun is over too, and at once: a generator left to the collector holds all that it has.
            await self.__aexit__(type(error), error, error.__traceback__)
            raise

    async def _begin(self, extension: SchemaExtension) -> None:
        kind: Any = type(extension)
        if hook := _hook(kind, self._name):
            begun = hook(extension)
            await (anext(begun) if hasattr(begun, "__anext__") else _next(begun))
            self._begun.append(begun)

    async def __aexit__(
        self, _: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        raised = error
        for begun in reversed(self._begun):
            raised = await _over(begun, raised)
        if raised is not None and raised is not error:
            raise raised
        return error is not None and raised is None


async def _next(begun: Any) -> None:
    next(begun)


async def _over(begun: Any, error: BaseException | None) -> BaseException | None:
    """What is raised after it: nothing where it has caught what was."""
    try:
        if hasattr(begun, "__anext__"):
            await (anext(begun) if error is None else begun.athrow(error))
        elif error is None:
            next(begun)
        else:
            begun.throw(error)
    except (StopIteration, StopAsyncIteration):
        return None
    except BaseException as raised:
        return raised
    return RuntimeError("a hook yields once")


@cache
def _hook(kind: Any, name: str) -> Callable[[Any], Any] | None:
    """Raises TypeError for what is no generator, as ours all are."""
    hook: Any = getattr(kind, name)
    if hook is getattr(SchemaExtension, name):
        return None
    if not isgeneratorfunction(hook) and not isasyncgenfunction(hook):
        raise TypeError(f"{kind.__name__}.{name} is no generator")
    found: Callable[[Any], Any] = hook
    return found


class Hooks(SchemaExtensionsRunner):
    def operation(self) -> Any:
        return Stage("on_operation", self.extensions)

    def parsing(self) -> Any:
        return Stage("on_parse", self.extensions)

    def validation(self) -> Any:
        return Stage("on_validate", self.extensions)

    def executing(self) -> Any:
        return Stage("on_execute", self.extensions)
