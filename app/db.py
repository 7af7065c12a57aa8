"""Piccolo's engine, made safe. What stock Piccolo 1.38 does instead is told where it is cured.

A statement outside a transaction borrows a connection of the pool for itself. `async with DB.transaction()` belongs to
the task that opened it; another one, inside, is a savepoint. JSONB columns are read as Python objects: don't ask
for `output(load_json=True)` as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Mapping, Sequence
from functools import cache, lru_cache
from operator import itemgetter
from string import Formatter
from types import TracebackType
from typing import Any, ClassVar, Final, Literal, NoReturn, TypeVar, cast

import asyncpg
import orjson
from piccolo.columns import JSONB
from piccolo.columns.combination import And, Or, Where, WhereRaw
from piccolo.custom_types import Combinable
from piccolo.engine.exceptions import TransactionError
from piccolo.engine.postgres import PostgresEngine, PostgresTransaction
from piccolo.querystring import QueryString
from piccolo.table import Table

from app import metrics, tracing

logger = logging.getLogger(__name__)

OLDEST_SERVER: Final = 15  # major version
ACQUIRE_TIMEOUT: Final = 10.0  # seconds; a request that waited so long has lost its client
COMMAND_TIMEOUT: Final = 30.0  # seconds a statement may take
LOCK_TIMEOUT_MS: Final = 5_000  # what holds a row so long is stuck, and must not take the whole pool with it
VERB_CHARACTERS: Final = 40  # in which a statement's first word is found, behind white space
CLOSE_TIMEOUT: Final = 10.0  # seconds for what still runs when the pool is closed


class PoolExhaustedError(TimeoutError):
    """No connection became free, or could be opened, within the pool's acquire timeout."""


# Somebody else has what was needed, and trying again may help.
BUSY_ERRORS: Final = (PoolExhaustedError, asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)


class ForeignTaskError(TransactionError):
    """A task used a transaction that another task opened: gather, create_task and wait_for hand it down."""


class TransactionEndedError(TransactionError):
    """A transaction was used after it ended, by a task that inherited it or after commit() or rollback() by hand."""


class AbortedTransactionError(TransactionError):
    """A statement failed, its exception was caught, and the block ended as if nothing were: all was rolled back."""


class MeasuredConnection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """Of each statement, whoever asks for it, the time is taken, and in a trace there is a span of it."""

    async def execute(self, query: str, *args: Any, **options: Any) -> Any:
        return await _measured(query, super().execute(query, *args, **options))

    async def executemany(self, command: str, args: Any, **options: Any) -> Any:
        return await _measured(command, super().executemany(command, args, **options))

    async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
        return await _measured(query, super().fetch(query, *args, **options))

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        return await _measured(query, super().fetchrow(query, *args, **options))

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        return await _measured(query, super().fetchval(query, *args, **options))


async def _measured(query: str, answer: Awaitable[Any]) -> Any:
    verb, began = _verb(query), time.perf_counter()
    try:
        with tracing.statement(verb, query):
            return await answer
    finally:
        metrics.executed(verb, time.perf_counter() - began)


@lru_cache(maxsize=1000)
def _verb(query: str) -> str:
    words = query[:VERB_CHARACTERS].split(None, 1)
    return words[0].rstrip(";").upper() if words else ""


class Fetched(asyncpg.Record):  # type: ignore[misc]  # asyncpg has no types
    """A row as asyncpg has decoded it, to be read as an object of its table: nothing is made of it that costs time."""

    __slots__ = ()

    table: ClassVar[type[Table] | None] = None
    places: ClassVar[Mapping[str, int]] = {}  # of the attributes that are as they are decoded


@cache
def row_of(table: type[Table], *columns: str) -> type[Fetched]:
    """The class of rows that a statement makes of these columns, in this order, with an attribute for each.

    JSON is to be selected as text, and decoded when it is read: most lists leave it, and it is the most of their rows.
    """
    in_json = {column._meta.name for column in table._meta.columns if isinstance(column, JSONB)}
    places = {name: place for place, name in enumerate(columns) if name not in in_json}
    attributes = {name: property(itemgetter(place)) for name, place in places.items()}
    attributes |= {name: _decoded(columns.index(name)) for name in in_json & {*columns}}
    return type(f"{table.__name__}Row", (Fetched,), {"__slots__": (), "table": table, "places": places, **attributes})


def _decoded(place: int) -> property:
    return property(lambda row: None if row[place] is None else orjson.loads(row[place]))


def is_of(row: object, table: type[Table]) -> bool:
    """Whether it is the table's, as Piccolo or as asyncpg has it."""
    return row.table is table if isinstance(row, Fetched) else isinstance(row, table)


class HeirloomTransaction(PostgresTransaction):
    """Ends in every case with its connection given back and the outer transaction, or none, current again.

    `connection` is asyncpg's, for what Piccolo can't say. Statements on it are not checked for the task. Until
    `committing` is true it is certain that nothing of it will stay.
    """

    engine: HeirloomEngine

    def __init__(self, engine: HeirloomEngine, allow_nested: bool = True) -> None:
        super().__init__(engine, allow_nested=True)
        self._allow_nested = allow_nested
        self._outer: HeirloomTransaction | None = None
        self._owner: asyncio.Task[Any] | None = None
        self.ended = False
        self.committing = False

    async def __aenter__(self) -> HeirloomTransaction:
        self._outer = self.engine.usable_transaction()
        if self._outer is not None and not self._allow_nested:
            raise TransactionError("a transaction is open already")
        self.connection = self._outer.connection if self._outer else await self.engine.take_connection()
        # Within another one this is a savepoint. (Stock: nothing, so what an inner, caught failure wrote stays.)
        self.transaction = self.connection.transaction()
        try:
            await self.transaction.start()
        except BaseException:
            if self._outer is None:
                self.engine.drop(self.connection)
            raise
        self._owner = asyncio.current_task()
        self.engine.current_transaction.set(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Literal[False]:
        # Stock gives back and resets after commit or rollback, so not when these raise: the connection is lost to the
        # pool, and whatever the task writes from then on is never committed. Not reset(token), which raises when an
        # async generator is closed in another context than it ran in.
        self.engine.current_transaction.set(self._outer)
        try:
            aborted = error is None and not self.ended and await self._is_aborted()
            if not self.ended:
                await (self.rollback() if aborted or error is not None else self.commit())
        except BaseException as failure:
            # Nobody knows what the server makes of the transaction: it goes with the connection. If this is a
            # savepoint, the outer one can't commit then, which is as it should be.
            self.ended = True
            self.engine.drop(self.connection)
            if error is None or not isinstance(failure, Exception):
                raise
            logger.warning("rollback failed, connection dropped: %r", failure)  # and the body's own error goes on
            return False
        if self._outer is None:
            await self.engine.give_back(self.connection)
        if aborted:
            raise AbortedTransactionError("a statement failed within the transaction: it was rolled back")
        return False

    async def commit(self) -> None:
        self.ended = self.committing = True
        await self.transaction.commit()

    async def rollback(self) -> None:
        self.ended = True
        await self.transaction.rollback()

    async def _is_aborted(self) -> bool:
        """COMMIT of a transaction in which a statement failed answers ROLLBACK, and nobody looks at the answer."""
        try:
            await self.connection.execute("SELECT 1")
        except asyncpg.InFailedSQLTransactionError:
            return True
        return False

    def refuse_unless_usable(self) -> None:
        """Raise ForeignTaskError or TransactionEndedError unless the running task may use it now."""
        if self._owner is not asyncio.current_task():
            raise ForeignTaskError("this transaction was opened by another task, which alone may use it")
        if self.ended:
            raise TransactionEndedError("this transaction has ended")


class HeirloomEngine(PostgresEngine):
    """Connects when it is started, and not when it is constructed; so `DB` can be a global of `piccolo_conf`."""

    def __init__(self) -> None:
        super().__init__(config={})
        self._acquire_timeout = ACQUIRE_TIMEOUT

    async def check_version(self) -> None:
        """Stock connects for this in the constructor, and only warns. See `start`."""

    async def prep_database(self) -> None:
        """Stock connects for this in the constructor. Extensions are the migrations' affair."""

    def configure(self, dsn: str, *, command_timeout: float = COMMAND_TIMEOUT) -> None:
        """Say which database. Enough for Piccolo's own commands, which open a connection a statement."""
        self.config = {
            "dsn": dsn,
            "command_timeout": command_timeout,
            "connection_class": MeasuredConnection,
            "server_settings": {"application_name": "heirloom", "lock_timeout": str(LOCK_TIMEOUT_MS)},
        }

    async def start(
        self,
        dsn: str,
        *,
        min_size: int = 1,
        max_size: int = 10,
        acquire_timeout: float = ACQUIRE_TIMEOUT,
        command_timeout: float = COMMAND_TIMEOUT,
    ) -> None:
        """Open the pool of `min_size` to `max_size` connections. Timeouts are in seconds.

        Raises RuntimeError when the server is older than OLDEST_SERVER, and what asyncpg raises when there is none.
        """
        if self.pool is not None:
            raise RuntimeError("the pool is open already")
        self.configure(dsn, command_timeout=command_timeout)
        self._acquire_timeout = acquire_timeout
        self.pool = await asyncpg.create_pool(
            **self.config, min_size=min_size, max_size=max_size, init=_prepare, reset=_leave_as_is
        )
        try:
            await self._refuse_old_server()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the pool, after CLOSE_TIMEOUT by force. Does nothing when it isn't open."""
        pool, self.pool, self.config = self.pool, None, {}
        if pool is None:
            return
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await pool.close()
        except TimeoutError:
            logger.warning("connections were in use %.0f s after the pool was to close: they were cut", CLOSE_TIMEOUT)

    async def _refuse_old_server(self) -> None:
        connection = await self.take_connection()
        version = connection.get_server_version()
        await self.give_back(connection)
        if version.major < OLDEST_SERVER:
            raise RuntimeError(f"PostgreSQL {OLDEST_SERVER} or newer is needed, the server is {version.major}")

    # Connections

    async def take_connection(self) -> asyncpg.Connection:
        """Stock waits for ever. Raises PoolExhaustedError."""
        if self.pool is None:
            return await self.get_new_connection()
        began = time.perf_counter()
        try:
            async with asyncio.timeout(self._acquire_timeout):  # asyncpg's own makes a task for it, each time
                connection = await self.pool.acquire()
        except TimeoutError:
            metrics.connection_refused()
            raise PoolExhaustedError(f"no database connection within {self._acquire_timeout} s") from None
        metrics.connection_taken(time.perf_counter() - began)
        return connection

    async def give_back(self, connection: asyncpg.Connection) -> None:
        """Return what `take_connection` gave, rid of the settings, locks and listens that it got meanwhile."""
        try:
            await connection.reset()
            if self.pool is not None:
                await self.pool.release(connection)
            else:
                await connection.close()
        except BaseException as failure:
            self.drop(connection)
            if not isinstance(failure, Exception):
                raise
            # What was done with it is committed: no reason to fail.
            logger.warning("connection dropped: %r", failure)

    def drop(self, connection: asyncpg.Connection) -> None:
        """Cut a connection of which nobody knows what state it is in. The pool opens another in its place."""
        with contextlib.suppress(asyncpg.InterfaceError):  # a savepoint did it before, or the pool's end
            connection.terminate()

    async def get_new_connection(self) -> asyncpg.Connection:
        if not self.config:
            # asyncpg would look at PGHOST and its like, and find a database of somebody else's.
            raise RuntimeError("the engine has no database: call configure() or start()")
        connection = await asyncpg.connect(**self.config)
        await _prepare(connection)
        return connection

    # Statements

    async def run_querystring(self, querystring: QueryString, in_pool: bool = True) -> Any:
        self.usable_transaction()
        return await super().run_querystring(querystring, in_pool)

    async def read(self, statement: str, *values: Any, rows: type[Fetched] = Fetched) -> list[Any]:
        """The `rows` of a statement that is written out, with `$1` for the first of the values."""
        if transaction := self.usable_transaction():
            found: list[Any] = await transaction.connection.fetch(statement, *values, record_class=rows)
            return found
        return await self._fetch_in_pool(rows, statement, values)

    def transform_response_to_dicts(self, results: Sequence[asyncpg.Record]) -> list[dict[str, Any]]:
        return as_dicts(results)

    async def run_ddl(self, ddl: str, in_pool: bool = True) -> Any:
        self.usable_transaction()
        return await super().run_ddl(ddl, in_pool)

    async def _run_in_pool(self, query: str, args: Sequence[Any] | None = None) -> Any:
        return await self._fetch_in_pool(asyncpg.Record, query, args or ())

    async def _fetch_in_pool(self, rows: type[asyncpg.Record], query: str, args: Sequence[Any]) -> list[Any]:
        connection = await self.take_connection()
        try:
            found: list[Any] = await connection.fetch(query, *args, record_class=rows)
            return found
        finally:
            await _let_go(connection)

    async def _run_in_new_connection(self, query: str, args: Sequence[Any] | None = None) -> Any:
        connection = await self.get_new_connection()
        try:
            return await connection.fetch(query, *(args or ()))
        finally:  # stock: after PostgresError only
            await connection.close()

    async def batch(self, *_: Any, **__: Any) -> NoReturn:
        """Stock swallows what its block raises."""
        raise NotImplementedError("use a cursor of transaction.connection")

    # Transactions

    def transaction(self, allow_nested: bool = True) -> HeirloomTransaction:
        """Raises ForeignTaskError on entering within a transaction of another task."""
        return HeirloomTransaction(self, allow_nested=allow_nested)

    def usable_transaction(self) -> HeirloomTransaction | None:
        """Return the current transaction, if there is one. Raises ForeignTaskError or TransactionEndedError.

        A task inherits the ContextVar of the one that started it. Stock lets it use the connection: two statements at
        once raise, and so does the rollback; one that outlives the transaction writes into a stranger's.
        """
        current = cast(HeirloomTransaction | None, self.current_transaction.get())
        if current is not None:
            current.refuse_unless_usable()
        return current

    def is_in_transaction(self) -> bool:
        """Whether a transaction is open here, or was where this task was started: no place for slow work."""
        current = cast(HeirloomTransaction | None, self.current_transaction.get())
        return current is not None and not current.ended

    def transaction_exists(self) -> bool:
        return self.is_in_transaction()


async def _prepare(connection: asyncpg.Connection) -> None:
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=_json_text, decoder=orjson.loads, format="text"
    )


def _json_text(value: Any) -> str:
    """Piccolo and pgqueuer bind JSON that is text already."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


async def _let_go(connection: Any) -> None:
    """Back to its pool, after one statement.

    Without the reset: one statement leaves nothing behind, and resetting it doubles its time (0.2 ms). And without the
    pool's own `release`, which starts a task for it, lest a cancelled caller keep it: a twentieth of a small request.
    Its holder waits only while a statement is being cancelled, and cuts the connection when it is cancelled there.
    """
    if connection._con is not None:  # else it was lost, and is no more the pool's
        await connection._holder.release(None)


async def _leave_as_is(_: asyncpg.Connection) -> None:
    """In the place of the pool's own reset: see `give_back`."""


# Rows

T = TypeVar("T", bound=Table)


def hydrate(table: type[T], row: dict[str, Any]) -> T:
    """Make the object of a row that `select()` gave, which it takes over: a tenth of what `objects()` costs.

    Attributes are those selected; reading another is a KeyError.
    """
    row["_exists_in_db"], row["_was_created"] = True, None
    made = table.__new__(table)
    made.__dict__ = row
    return made


async def fetch(table: type[T], where: Combinable, rest: str = "", *, columns: tuple[str, ...] = ()) -> list[T]:
    """All rows for which `where` holds, with these columns or all of them: only to be read, since they are `Fetched`.

    `rest` stands behind it, an order or a limit, and as the columns it is never a client's word. A third of what
    `select()` costs, which puts the names of the columns together anew each time.
    """
    rows, selected = _selected(table, columns)
    values: list[Any] = []
    text = f"{selected} WHERE {text_of(where, values)} {rest}"
    engine = cast(HeirloomEngine, table._meta.db)
    return await engine.read(text, *values, rows=rows)


@cache
def _selected(table: type[Table], columns: tuple[str, ...]) -> tuple[type[Fetched], str]:
    columns = columns or tuple(column._meta.name for column in table._meta.columns)
    name = table._meta.tablename
    rows = row_of(table, *columns)
    selected = [f'"{name}"."{column}"' + ("" if column in rows.places else "::text") for column in columns]
    return rows, f"SELECT {', '.join(selected)} FROM {name}"  # noqa: S608 - the names are our own


def text_of(where: Combinable | QueryString, values: list[Any]) -> str:
    """The text of a condition, of which the values are added to those that stand before them in the statement.

    As Piccolo's `compile_string` has it, in a fifth of the time: a fortieth of a page. Conditions may stand among the
    values of another. A brace that is none of a value's can't be among them: Piccolo takes it for one.
    """
    if isinstance(where, And | Or):
        return f"({text_of(where.first, values)} {where.operator} {text_of(where.second, values)})"
    query = where if isinstance(where, QueryString) else where.querystring
    text, *behind = _literals(query.template)
    for value, literal in zip(query.args, behind, strict=True):
        if isinstance(value, _CONDITIONS):
            text += text_of(value, values) + literal
        else:
            values.append(value)
            text += f"${len(values)}{literal}"
    return text


_CONDITIONS: Final = (QueryString, WhereRaw, Where, And, Or)


@lru_cache(maxsize=1000)
def _literals(template: str) -> Sequence[str]:
    """What stands before, between and behind its values."""
    parsed = [(literal, name is not None) for literal, name, _, _ in Formatter().parse(template)]
    return [literal for literal, _ in parsed] + ([""] if not parsed or parsed[-1][1] else [])


def as_dicts(rows: Sequence[asyncpg.Record]) -> list[dict[str, Any]]:
    """A third quicker than `dict(row)`, which looks each name up."""
    names = [*rows[0].keys()] if rows else []
    return [dict(zip(names, row, strict=True)) for row in rows]
