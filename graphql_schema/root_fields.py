"""What is measured of the root's fields: the time of resolvers, and subscriptions as long as they are open.

Not by an extension or a middleware, which would see every field, and keep the executor from reading the plain ones.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from inspect import isawaitable
from typing import Any

from graphql import GraphQLSchema

from app import metrics, tracing

Resolver = Callable[..., Any]


def measure(schema: GraphQLSchema) -> None:
    """Once, when it has been made."""
    assert schema.query_type is not None
    assert schema.mutation_type is not None
    assert schema.subscription_type is not None
    for root in (schema.query_type, schema.mutation_type):
        for name, field in root.fields.items():
            assert field.resolve is not None, "Strawberry gives every field one"
            field.resolve = _timed(f"{root.name}.{name}", field.resolve)
    for field in schema.subscription_type.fields.values():
        assert field.subscribe is not None, "Strawberry gives every field one"
        field.subscribe = _counted(field.subscribe)


def _timed(name: str, resolve: Resolver) -> Resolver:
    def resolve_timed(source: Any, info: Any, **arguments: Any) -> Any:
        began = time.perf_counter()
        result = resolve(source, info, **arguments)
        if isawaitable(result):
            return awaited(result, began)
        metrics.resolved(name, time.perf_counter() - began)
        return result

    async def awaited(result: Awaitable[Any], began: float) -> Any:
        try:
            return await result
        finally:
            metrics.resolved(name, time.perf_counter() - began)

    return resolve_timed


def _counted(subscribe: Resolver) -> Resolver:
    async def results(source: Any, info: Any, **arguments: Any) -> AsyncGenerator[Any, None]:
        found = subscribe(source, info, **arguments)
        with metrics.subscription_open(info.context.protocol()), tracing.untraced():
            async with aclosing(await found if isawaitable(found) else found) as each:
                async for result in each:
                    yield result

    return results
