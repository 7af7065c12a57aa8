"""Each stock defect of Piccolo 1.38, asserted from our side: the comments say what stock does."""
# ruff: noqa: PT012  what has to fail is a whole transaction

from __future__ import annotations

import asyncio
import importlib.util
import threading
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import asyncpg
import pytest
from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.apps.migrations.commands.new import _create_new_migration
from piccolo.columns import JSONB, Array, BigInt, ForeignKey, Varchar
from piccolo.columns.combination import WhereRaw
from piccolo.conf.apps import AppConfig
from piccolo.query import Query
from piccolo.querystring import QueryString
from piccolo.table import Table

from app import db, identifiers
from app.db import (
    AbortedTransactionError,
    ForeignTaskError,
    HeirloomEngine,
    PoolExhaustedError,
    TransactionEndedError,
    fetch,
    hydrate,
    is_of,
    text_of,
)
from app.identifiers import UUID7, uuid7
from tests.postgres import create_database, drop_database

DB = HeirloomEngine()  # the name by which Piccolo's migrations find it


class Keeper(Table, db=DB, tablename="keeper"):
    id = UUID7(primary_key=True)
    name = Varchar()


class Heirloom(Table, db=DB, tablename="heirloom"):
    id = UUID7(primary_key=True)
    name = Varchar()
    keeper = ForeignKey(references=Keeper, null=True, default=None)
    facts = JSONB(null=True, default=None)
    tags = Array(base_column=Varchar(), default=list)
    weight = BigInt(null=True, default=None)
    other = UUID7(null=True, default=None)


SCHEMA = """
    CREATE TABLE keeper (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name varchar NOT NULL);
    CREATE TABLE heirloom (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name varchar NOT NULL, keeper uuid, facts jsonb,
        tags varchar[] NOT NULL DEFAULT '{}', weight bigint, other uuid,
        CONSTRAINT heirloom_keeper FOREIGN KEY (keeper) REFERENCES keeper DEFERRABLE INITIALLY DEFERRED
    );
"""


@pytest.fixture(scope="module")
async def dsn(server_dsn: str, worker_name: str) -> AsyncIterator[str]:
    name = f"test_db_{worker_name}"
    made = await create_database(server_dsn, name)
    connection = await asyncpg.connect(made)
    await connection.execute(SCHEMA)
    await connection.close()
    yield made
    await drop_database(server_dsn, name)


@pytest.fixture(autouse=True)
async def engine(dsn: str) -> AsyncIterator[HeirloomEngine]:
    """One connection: a leaked one shows at once."""
    await DB.start(dsn, max_size=1, acquire_timeout=0.5)
    yield DB
    await DB.close()


@pytest.fixture(autouse=True)
async def stranger(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """Another client of the same database, who sees what is committed."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("TRUNCATE heirloom, keeper")
    yield connection
    await connection.close()


async def names(stranger: asyncpg.Connection) -> list[str]:
    return [row["name"] for row in await stranger.fetch("SELECT name FROM heirloom ORDER BY name")]


async def assert_usable(stranger: asyncpg.Connection) -> None:
    """The only connection is back, the task is outside of any transaction, and what it writes is committed."""
    assert not DB.is_in_transaction()
    await Heirloom(name="zz afterwards").save()
    assert "zz afterwards" in await names(stranger)


def add(name: str) -> Query[Heirloom, list[dict[str, object]]]:
    return Heirloom.insert(Heirloom(name=name))


# Connecting


async def test_an_engine_that_has_no_database_connects_to_none(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Stock connects when it is constructed; and without a configuration, to what PGHOST and its like say.
    monkeypatch.setenv("PGHOST", "/nowhere")
    engine = HeirloomEngine()
    with pytest.raises(RuntimeError, match=r"call configure\(\) or start\(\)"):
        await engine.run_ddl("SELECT 1")
    engine.configure(dsn)
    assert [tuple(row) for row in await engine.run_ddl("SELECT '[1]'::jsonb")] == [([1],)]


async def test_an_old_server_is_refused(
    dsn: str, stranger: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "OLDEST_SERVER", 99)
    engine = HeirloomEngine()
    with pytest.raises(RuntimeError, match="PostgreSQL 99 or newer is needed, the server is 1"):
        await engine.start(dsn)
    assert engine.pool is None


async def test_starting_twice_is_refused_and_closing_twice_is_not(dsn: str) -> None:
    engine = HeirloomEngine()
    await engine.close()
    await engine.start(dsn)
    with pytest.raises(RuntimeError, match="open already"):
        await engine.start(dsn)
    await engine.close()
    await engine.close()
    with pytest.raises(RuntimeError, match="no database"):
        await engine.run_ddl("SELECT 1")


async def test_closing_cuts_what_does_not_end(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db, "CLOSE_TIMEOUT", 0.1)
    engine = HeirloomEngine()
    await engine.start(dsn)
    held = await engine.take_connection()
    await engine.close()
    with pytest.raises(asyncpg.InterfaceError):
        await held.execute("SELECT 1")
    await engine.give_back(held)


async def test_an_exhausted_pool_is_an_error_in_time() -> None:
    # Stock waits for ever.
    held = await DB.take_connection()
    began = time.monotonic()
    with pytest.raises(PoolExhaustedError, match=r"no database connection within 0\.5 s"):
        await Heirloom.select()
    with pytest.raises(PoolExhaustedError):
        async with DB.transaction():
            raise AssertionError("the block must not be entered")
    assert 0.9 < time.monotonic() - began < 5
    assert not DB.is_in_transaction()
    await DB.give_back(held)
    assert await Heirloom.select() == []


async def test_a_statement_has_a_limit(dsn: str) -> None:
    engine = HeirloomEngine()
    await engine.start(dsn, max_size=1, command_timeout=0.1)
    with pytest.raises(TimeoutError):
        await engine.run_ddl("SELECT pg_sleep(60)")
    assert len(await engine.run_ddl("SELECT 1")) == 1
    await engine.close()


async def test_a_connection_comes_back_without_what_was_set_on_it() -> None:
    async with DB.transaction() as transaction:
        await transaction.connection.execute("SET search_path = pg_catalog; SELECT pg_advisory_lock(7)")
    assert await Heirloom.select() == []
    assert len(await DB.run_ddl("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'")) == 0


async def test_batch_is_refused() -> None:
    # Stock swallows what its block raises.
    with pytest.raises(NotImplementedError, match="cursor"):
        await Heirloom.select().batch()


# Transactions


async def test_a_transaction_commits_whole_or_not_at_all(stranger: asyncpg.Connection) -> None:
    async with DB.transaction() as transaction:
        await add("a")
        await transaction.connection.execute("INSERT INTO heirloom (name) VALUES ('b')")
        assert DB.is_in_transaction()
        assert await names(stranger) == []
    assert await names(stranger) == ["a", "b"]
    with pytest.raises(ZeroDivisionError):
        async with DB.transaction():
            await add("c")
            _ = 1 / 0
    assert await names(stranger) == ["a", "b"]
    await assert_usable(stranger)


async def test_gather_within_a_transaction_is_refused_and_harms_nothing(stranger: asyncpg.Connection) -> None:
    # Stock: one of the two raises, the rollback raises too, and all that the task writes later is never committed.
    async with DB.transaction():
        await add("before")
        refused = await asyncio.gather(add("b").run(), add("c").run(), return_exceptions=True)
        assert [type(answer) for answer in refused] == [ForeignTaskError, ForeignTaskError]
        await add("after")
    assert await names(stranger) == ["after", "before"]
    await assert_usable(stranger)


async def test_gather_on_the_bare_connection_costs_the_transaction_alone(stranger: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.InterfaceError, match="another operation is in progress"):
        async with DB.transaction() as transaction:
            await add("before")
            connection = transaction.connection
            await asyncio.gather(connection.execute("SELECT pg_sleep(0.3)"), connection.execute("SELECT 1"))
    assert await names(stranger) == []
    await assert_usable(stranger)


async def test_a_task_is_refused_the_transaction_it_was_started_in(stranger: asyncpg.Connection) -> None:
    # Stock: it writes into the transaction, and later through a connection that serves somebody else.
    go_on = asyncio.Event()

    async def child() -> list[type[BaseException]]:
        met: list[type[BaseException]] = []
        for _ in range(2):
            assert DB.is_in_transaction() is not go_on.is_set()
            try:
                await add("child")
            except ForeignTaskError as error:
                met.append(type(error))
            try:
                async with DB.transaction():
                    await add("child")
            except ForeignTaskError as error:
                met.append(type(error))
            await go_on.wait()
        return met

    async with DB.transaction():
        task = asyncio.create_task(child())
        await asyncio.sleep(0)
        await add("parent")
    go_on.set()
    assert await task == [ForeignTaskError] * 4
    assert await names(stranger) == ["parent"]
    await assert_usable(stranger)


async def test_a_transaction_ended_by_hand_takes_no_more(stranger: asyncpg.Connection) -> None:
    # Stock: statements after it are committed one by one.
    async with DB.transaction() as transaction:
        await add("a")
        await transaction.rollback()
        with pytest.raises(TransactionEndedError):
            await add("b")
    async with DB.transaction() as transaction:
        await add("c")
        await transaction.commit()
        with pytest.raises(TransactionEndedError):
            await add("d")
    assert await names(stranger) == ["c"]
    await assert_usable(stranger)


async def test_a_nested_transaction_is_a_savepoint(stranger: asyncpg.Connection) -> None:
    # Stock: "inner" stays.
    async with DB.transaction() as outer:
        await add("outer before")
        with pytest.raises(ZeroDivisionError):
            async with DB.transaction() as inner:
                assert inner is not outer
                await add("inner")
                _ = 1 / 0
        async with DB.transaction(), DB.transaction():
            await add("innermost")
        await add("outer after")
    assert await names(stranger) == ["innermost", "outer after", "outer before"]
    await assert_usable(stranger)


async def test_what_a_nested_transaction_wrote_goes_with_the_outer_one(stranger: asyncpg.Connection) -> None:
    with pytest.raises(ZeroDivisionError):
        async with DB.transaction():
            async with DB.transaction():
                await add("inner")
            _ = 1 / 0
    assert await names(stranger) == []
    await assert_usable(stranger)


async def test_a_caught_failure_of_a_statement_is_not_taken_for_a_commit(stranger: asyncpg.Connection) -> None:
    # Stock: COMMIT answers ROLLBACK, and nobody hears of it.
    with pytest.raises(AbortedTransactionError):
        async with DB.transaction():
            await add("a")
            with pytest.raises(asyncpg.DivisionByZeroError):
                await Heirloom.raw("SELECT 1 / 0")
    assert await names(stranger) == []
    await assert_usable(stranger)
    async with DB.transaction():
        await add("outer")
        with pytest.raises(AbortedTransactionError):
            async with DB.transaction():
                await add("inner")
                with pytest.raises(asyncpg.DivisionByZeroError):
                    await Heirloom.raw("SELECT 1 / 0")
    assert await names(stranger) == ["outer", "zz afterwards"]


async def test_a_failed_commit_gives_the_connection_back(stranger: asyncpg.Connection) -> None:
    # Stock leaks it, and stays in the transaction.
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        async with DB.transaction():
            await Heirloom.insert(Heirloom(name="a", keeper=uuid.uuid4()))
    assert await names(stranger) == []
    await assert_usable(stranger)


@pytest.mark.parametrize("caught", [False, True])
async def test_a_lost_connection_is_given_up(stranger: asyncpg.Connection, caught: bool) -> None:
    # Stock: rollback raises, the connection is not given back, and the task stays in the transaction.
    with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.AdminShutdownError)):
        async with DB.transaction() as transaction:
            await add("a")
            pid = transaction.connection.get_server_pid()
            assert await stranger.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)
            if not caught:
                await add("b")
    assert await names(stranger) == []
    await assert_usable(stranger)


async def test_a_connection_lost_within_a_savepoint_is_lost_to_the_outer_one(stranger: asyncpg.Connection) -> None:
    with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError)):
        async with DB.transaction() as transaction:
            await add("outer")
            with pytest.raises(ZeroDivisionError):
                async with DB.transaction():
                    await stranger.fetch(
                        "SELECT pg_terminate_backend($1, 5000)", transaction.connection.get_server_pid()
                    )
                    _ = 1 / 0
    assert await names(stranger) == []
    await assert_usable(stranger)


@pytest.mark.parametrize("query", [None, "SELECT pg_sleep(60)"])
async def test_a_cancelled_body_is_rolled_back(stranger: asyncpg.Connection, query: str | None) -> None:
    written = asyncio.Event()

    async def body() -> None:
        async with DB.transaction():
            await add("a")
            written.set()
            await (Heirloom.raw(query) if query else asyncio.Event().wait())

    task = asyncio.create_task(body())
    await written.wait()
    for _ in range(3):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await names(stranger) == []
    await assert_usable(stranger)


async def asleep(stranger: asyncpg.Connection, statement: str) -> int:
    """The process of the server in which the statement sleeps."""
    async with asyncio.timeout(5):
        while True:
            found: int | None = await stranger.fetchval(
                "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query = $1", statement
            )
            if found is not None:
                return found


def sleeping() -> str:
    """A statement like no other: one that was cut sleeps on."""
    return f"SELECT pg_sleep(60) AS sleep_{uuid.uuid4().hex}"


@pytest.mark.parametrize("again", range(5))
async def test_a_cancelled_statement_gives_the_connection_back(stranger: asyncpg.Connection, again: int) -> None:
    """However soon it is cancelled once more: while its connection waits for the server to give the statement up."""
    statement = sleeping()
    task = asyncio.ensure_future(DB.read(statement))
    await asleep(stranger, statement)
    task.cancel()
    for _ in range(again):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await assert_usable(stranger)


async def test_a_connection_lost_during_a_statement_is_told_and_given_up(stranger: asyncpg.Connection) -> None:
    statement = sleeping()
    task = asyncio.ensure_future(DB.read(statement))
    assert await stranger.fetchval("SELECT pg_terminate_backend($1, 5000)", await asleep(stranger, statement))
    with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError)):
        await task
    await assert_usable(stranger)


async def test_a_body_cancelled_again_while_it_rolls_back_gives_the_connection_back(
    stranger: asyncpg.Connection,
) -> None:
    async def body() -> None:
        async with DB.transaction():
            await add("a")
            written.set()
            await asyncio.Event().wait()

    for steps in range(1, 8):
        written = asyncio.Event()
        task = asyncio.create_task(body())
        await written.wait()
        task.cancel()
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await names(stranger) == []
        assert await Heirloom.select() == []
    await assert_usable(stranger)


async def test_a_generator_closed_by_another_task_ends_its_transaction(stranger: asyncpg.Connection) -> None:
    # Stock: ContextVar.reset raises.
    async def generator() -> AsyncIterator[None]:
        async with DB.transaction():
            await add("a")
            yield

    async def step() -> AsyncIterator[None]:
        opened = generator()
        await anext(opened)
        return opened

    opened = await asyncio.create_task(step())
    assert not DB.is_in_transaction()
    with pytest.raises(StopAsyncIteration):
        await anext(opened)
    assert await names(stranger) == ["a"]
    await assert_usable(stranger)


# Rows


async def test_json_is_read_as_objects_and_written_from_objects_or_text() -> None:
    document = {"Make": "Canon", "list": [1, None, "é"], "deep": {"a": 1.5}}
    await Heirloom.insert(Heirloom(name="a", facts=document), Heirloom(name="b", facts='{"text": 1}'))
    rows = await Heirloom.select(Heirloom.facts).order_by(Heirloom.name)
    assert rows == [{"facts": document}, {"facts": {"text": 1}}]
    made = await Heirloom.select(Heirloom.facts.arrow("Make").as_alias("make")).where(Heirloom.name == "a").first()
    assert made == {"make": "Canon"}
    updated = (
        await Heirloom.update({Heirloom.facts: {"now": True}}).where(Heirloom.name == "b").returning(Heirloom.facts)
    )
    assert updated == [{"facts": {"now": True}}]


async def test_a_hydrated_row_is_like_one_of_objects() -> None:
    keeper = Keeper(name="Ada")
    await keeper.save()
    await Heirloom(name="kept", keeper=keeper.id, facts={"a": [1]}, tags=["x", "y"]).save()
    row = await Heirloom.select().first()
    assert row is not None
    made = hydrate(Heirloom, row)
    stock = await Heirloom.objects().first()
    assert stock is not None
    assert made.to_dict() == stock.to_dict()
    assert made.to_dict() == {
        "id": made.id,
        "name": "kept",
        "keeper": keeper.id,
        "facts": {"a": [1]},
        "tags": ["x", "y"],
        "weight": None,
        "other": None,
    }
    made.name = "renamed"
    await made.save()
    assert await Heirloom.select(Heirloom.id, Heirloom.name) == [{"id": made.id, "name": "renamed"}]


async def test_rows_are_fetched_with_the_columns_that_were_asked_for() -> None:
    await Heirloom.insert(*(Heirloom(name=name, facts={"id": 1}) for name in "bca"))
    whole = await fetch(Heirloom, Heirloom.name != "c", "ORDER BY heirloom.name")
    stock = await Heirloom.objects().where(Heirloom.name != "c").order_by(Heirloom.name)
    names = [column._meta.name for column in Heirloom._meta.columns]
    assert [[getattr(row, name) for name in names] for row in whole] == [[*row.to_dict().values()] for row in stock]
    assert all(is_of(row, Heirloom) and not is_of(row, Keeper) for row in (*whole, *stock))
    (named,) = await fetch(Heirloom, Heirloom.name == "a", columns=("id", "name"))
    assert (named.id, named.name) == (whole[0].id, "a")
    with pytest.raises(AttributeError):
        _ = named.weight
    with pytest.raises(AttributeError):
        named.name = "b"  # only to be read
    assert await fetch(Heirloom, Heirloom.name == "d") == []


def test_conditions_are_written_as_piccolo_writes_them() -> None:
    raw = WhereRaw("(heirloom.name = {} OR {} = heirloom.name)", "a", "b")
    among = WhereRaw("heirloom.id IN (SELECT id FROM heirloom WHERE {})", (Heirloom.name == "c").querystring)
    for where in (raw, among, Heirloom.weight.is_null(), raw & among | (Heirloom.name.is_in(["d", "e"]) & raw)):
        values: list[Any] = ["before"]
        text = text_of(where, values)
        stock = QueryString("{} {}", "before", where.querystring).compile_string()
        assert (f"$1 {text}", values) == stock


# Identifiers


def test_identifiers_are_of_version_7_and_ascend() -> None:
    before = time.time_ns() // 1_000_000
    made = [uuid7() for _ in range(20_000)]
    after = time.time_ns() // 1_000_000
    assert {(each.version, each.variant) for each in made} == {(7, uuid.RFC_4122)}
    assert made == sorted(set(made))
    assert before <= made[0].int >> 80 <= made[-1].int >> 80 <= after


def test_identifiers_ascend_though_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    source = identifiers._UUID7Source()
    first = source.make()
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000_000)
    assert first < source.make() < source.make()


def test_identifiers_of_several_threads_differ_and_ascend_in_each() -> None:
    made: list[list[uuid.UUID]] = []

    def work() -> None:
        made.append([uuid7() for _ in range(5_000)])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(each == sorted(each) for each in made)
    assert len({each for thread in made for each in thread}) == 20_000


async def test_an_identifier_survives_a_migration(
    tmp_path: Path, stranger: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Stock's UUID7 needs Python 3.14 and PostgreSQL 18; and a subclass of a column gets a type named like the class.
    class Migrated(Table, db=DB, tablename="migrated"):
        id = UUID7(primary_key=True)
        keeper = ForeignKey(references=Keeper, null=True, default=None)
        other = UUID7(null=True, default=None)

    monkeypatch.setenv("PICCOLO_CONF", __name__)
    config = AppConfig(app_name="trial", migrations_folder_path=str(tmp_path), table_classes=[Keeper, Migrated])
    (tmp_path / "__init__.py").touch()
    await stranger.execute("ALTER TABLE keeper RENAME TO kept_keeper")
    try:
        written = await _create_new_migration(config, auto=True)
        manager: MigrationManager = await _load(Path(written.migration_path)).forwards()
        await manager.run()
        columns = await stranger.fetch(
            "SELECT column_name, data_type, column_default FROM information_schema.columns "
            "WHERE table_name = 'migrated' ORDER BY column_name"
        )
        assert [tuple(column) for column in columns] == [
            ("id", "uuid", "gen_random_uuid()"),
            ("keeper", "uuid", None),
            ("other", "uuid", None),
        ]
        made = Migrated()
        await made.save()
        assert made.id.version == 7
        await stranger.execute("INSERT INTO migrated DEFAULT VALUES")
        assert await Migrated.count() == 2
    finally:
        await stranger.execute("DROP TABLE IF EXISTS migrated; DROP TABLE IF EXISTS keeper")
        await stranger.execute("ALTER TABLE kept_keeper RENAME TO keeper")


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("trial_migration", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
