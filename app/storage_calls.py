"""A storage whose calls are measured: `storage` itself knows nothing of that."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from functools import wraps
from typing import Any, Final, TypeVar

from app import metrics, tracing
from storage.base import StorageError

CALLS: Final = (
    "put",
    "head",
    "delete",
    "copy",
    "create_multipart",
    "list_parts",
    "complete_multipart",
    "abort_multipart",
    "set_up",
    "ready",
)
STREAMS: Final = ("open", "list", "list_multiparts")
END: Final = object()

Storage = TypeVar("Storage")


def measured(storage: type[Storage]) -> type[Storage]:
    """The same storage; of what it asks of itself, too, the time is taken."""
    calls = {name: _call(name, getattr(storage, name)) for name in CALLS}
    streams = {name: _stream(name, getattr(storage, name)) for name in STREAMS}
    return type(storage.__name__, (storage,), {**calls, **streams})


def _call(name: str, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @wraps(call)
    async def timed(self: Any, *args: Any, **options: Any) -> Any:
        with tracing.storage_call(self.name, name), _told(name) as watch, watch:
            return await call(self, *args, **options)

    return timed


def _stream(name: str, stream: Callable[..., AsyncGenerator[Any, None]]) -> Callable[..., AsyncGenerator[Any, None]]:
    @wraps(stream)
    async def timed(self: Any, *args: Any, **options: Any) -> AsyncGenerator[Any, None]:
        """Its own time, and not that of whoever takes what it gives."""
        with tracing.storage_call(self.name, name), _told(name) as watch:
            async with aclosing(stream(self, *args, **options)) as results:
                while True:
                    with watch:
                        result = await anext(results, END)
                    if result is END:
                        return
                    yield result

    return timed


@contextmanager
def _told(operation: str) -> Iterator[_Watch]:
    watch = _Watch()
    try:
        yield watch
    finally:
        metrics.stored(operation, watch.outcome, watch.seconds)


class _Watch:
    """The time spent within it, all in all, and what came of it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.outcome = "ok"

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self.seconds += time.perf_counter() - self._began
        if isinstance(error, StorageError):
            self.outcome = type(error).__name__
        elif error is not None:
            self.outcome = "error" if isinstance(error, Exception) else "cancelled"
