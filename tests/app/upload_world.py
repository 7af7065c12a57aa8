"""A deployment within one process, whose clock jumps, and whose storage fails when it is told to."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import uuid
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, TypeVar, cast

import asyncpg
import httpx
import pytest
from litestar import Litestar
from PIL import Image

from app import people, profiles
from app.access import Viewer
from app.files import file_routes
from app.migrate import migrate
from app.rendering import Sandboxes
from app.settings import load
from app.tables import EntityKind, UserAccount, UserRole
from app.wiring import open_services
from processing.failures import FailureCode
from processing.identify import HEAD_BYTES
from processing.kinds import JPEG, PNG, WAV, FileType
from processing.limits import Limits
from processing.sandbox import Sandbox
from storage.base import ObjectStorage, SignedRequest, StorageUnavailable
from storage.local import LocalStorage
from tests.pictures import encoded
from tests.postgres import create_database, drop_database
from tests.server import SECRET_KEY

MIB: Final = 1024 * 1024
SMALL: Final = 1_000  # bytes of each small content, so that any may be sent in place of any other
PART: Final = 8 * MIB
LARGE: Final = PART + 1

_KEY: Final = "SELECT storage_key FROM media WHERE id = $1"

T = TypeVar("T")


@dataclass(frozen=True)
class Content:
    """A file: what its first bytes say that it is, and how its processing ends (None: well)."""

    data: bytes
    type: FileType | None
    failure: FailureCode | None = None

    @functools.cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def _small(color: str, format: str) -> bytes:  # noqa: A002
    picture = encoded(Image.new("RGB", (8, 8), color), format)
    return picture + bytes(SMALL - len(picture))


CONTENTS: Final = {
    "photo": Content(_small("red", "JPEG"), JPEG),
    "other photo": Content(_small("blue", "JPEG"), JPEG),
    "drawing": Content(_small("green", "PNG"), PNG),
    "broken photo": Content(_small("red", "JPEG")[:300].ljust(SMALL, b"\0"), JPEG, FailureCode.CORRUPT),
    "page": Content(b"<html><script>alert(1)</script>".ljust(SMALL), None),
}
# Recordings in two parts: what the first may be, and the last, of one byte.
_SOUND: Final = b"RIFF" + (LARGE - 8).to_bytes(4, "little") + b"WAVEfmt \x10\x00\x00\x00"
FIRST_PARTS: Final = {
    "sound": _SOUND.ljust(PART, b"\0"),
    "other sound": _SOUND.ljust(PART, b"\1"),
    "noise": bytes(PART),
}
LAST_PARTS: Final = {"end": b"\0", "other end": b"\1"}


@functools.cache
def joined(first: str, last: str) -> Content:
    kind = None if first == "noise" else WAV
    return Content(FIRST_PARTS[first] + LAST_PARTS[last], kind, FailureCode.UNSUPPORTED)


@dataclass
class Spooled:
    """A file as the edge hands it over."""

    path: Path
    filename: str
    size: int
    sha256: str
    head: bytes
    too_large: bool = False


@dataclass(frozen=True)
class Trouble:
    """The storage fails at its call number `call`, from 0; with `after`, it has done as it was told by then."""

    call: int
    after: bool


class Fickle:
    """A storage that fails for one call. `failed` is the method that did, `done` are those that did not."""

    def __init__(self, storage: LocalStorage) -> None:
        self.storage = storage
        self._trouble: Trouble | None = None
        self.failed: str | None = None
        self.done: list[str] = []

    @contextmanager
    def troubled(self, trouble: Trouble | None) -> Iterator[None]:
        self._trouble, self.failed, self.done = trouble, None, []
        try:
            yield
        finally:
            self._trouble = None

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.storage, name)
        if name in {"open", "list", "list_multiparts"}:
            return functools.partial(self._stream, name, method)
        if asyncio.iscoroutinefunction(method):
            return functools.partial(self._call, name, method)
        return method

    async def _call(self, name: str, method: Callable[..., Coroutine[Any, Any, T]], *args: Any, **named: Any) -> T:
        failing = self._failing(name)
        answer = await method(*args, **named)
        self._end(name, failing)
        return answer

    async def _stream(
        self, name: str, method: Callable[..., AsyncGenerator[T, None]], *args: Any, **named: Any
    ) -> AsyncGenerator[T, None]:
        failing = self._failing(name)
        async for each in method(*args, **named):
            yield each
        self._end(name, failing)

    def _failing(self, name: str) -> bool:
        """Whether this call is to fail at its end. Raises StorageUnavailable when it fails at its beginning."""
        if self._trouble is None:
            return False
        if self._trouble.call:
            self._trouble = replace(self._trouble, call=self._trouble.call - 1)
            return False
        after, self._trouble = self._trouble.after, None
        if not after:
            self._fail(name)
        return after

    def _end(self, name: str, failing: bool) -> None:
        self.done.append(name)
        if failing:
            self._fail(name)

    def _fail(self, name: str) -> None:
        self.failed = name
        raise StorageUnavailable(f"{name} fails, for this test")


@dataclass(frozen=True)
class Person:
    """Somebody with a profile."""

    viewer: Viewer
    profile: uuid.UUID


class World:
    """Opened once, and reset for each life."""

    def __init__(self, server_dsn: str, database: str, folder: Path) -> None:
        self._server_dsn, self._database, self._folder = server_dsn, database, folder
        # With a factory it leaves alone the loop that other tests have set.
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._stack = AsyncExitStack()
        self.now = datetime.now(UTC)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(coroutine)

    @contextmanager
    def opened(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
        # Those that ask the machine's clock: whether a URL is good still, and since when something is in the trash.
        clock = SimpleNamespace(now=lambda _: self.now)
        monkeypatch.setattr("app.file_uploads.datetime", clock)
        monkeypatch.setattr("app.trash.datetime", clock)
        with self._runner:
            try:
                self.run(self._open())
                yield self
            finally:
                self.run(self._stack.aclose())
                self.run(drop_database(self._server_dsn, self._database))

    async def _open(self) -> None:
        dsn = await create_database(self._server_dsn, self._database)
        settings = load(
            {"HEIRLOOM_DATA_DIR": str(self._folder), "HEIRLOOM_DATABASE_URL": dsn, "HEIRLOOM_SECRET_KEY": SECRET_KEY}
        )
        services = await self._stack.enter_async_context(open_services(settings, dsn=dsn))
        await migrate()
        assert isinstance(services.storage, LocalStorage)
        self.storage = Fickle(services.storage)
        self.services = replace(services, clock=lambda: self.now, storage=cast("ObjectStorage", self.storage))
        sandbox = Sandbox(Limits(), 1, scratch=services.scratch)
        self._stack.push_async_callback(sandbox.close)
        self.sandboxes = Sandboxes(sandbox, sandbox)  # no films
        app: Any = Litestar(
            [file_routes(services.storage)], openapi_config=None
        )  # whose types are narrower than httpx's
        transport = httpx.ASGITransport(app)
        self._http = await self._stack.enter_async_context(httpx.AsyncClient(transport=transport))
        self._connection = await asyncpg.connect(dsn)
        self._stack.push_async_callback(self._connection.close)
        self.people = [await self._person(name) for name in ("Ada", "Eve")]

    async def _person(self, name: str) -> Person:
        account = UserAccount(email=f"{name}@example.org", password_hash="", display_name=name, created_at=self.now)
        await UserAccount.insert(account)
        viewer = Viewer(account.id, UserRole.USER, uuid.uuid4())
        person = await people.create(viewer, name=name)
        profile = await profiles.create(self.services, viewer, person_id=person.id)
        assert profile.kind == EntityKind.PROFILE
        return Person(viewer, profile.id)

    def reset(self, quota: int | None) -> None:
        """Nothing is there, and it is now; `quota` in bytes is everybody's."""
        self.now = datetime.now(UTC).replace(microsecond=0)
        for table in ("media", "upload_session", "variant", "event", "pgqueuer", "pgqueuer_log"):
            self.fetch(f"DELETE FROM {table}")
        self.fetch("UPDATE user_account SET quota_bytes = $1", quota)

        async def clear() -> None:
            storage = self.storage.storage
            await storage.delete([stored.key async for stored in storage.list("")])
            for upload in [upload async for upload in storage.list_multiparts()]:
                await storage.abort_multipart(upload.key, upload.upload_id)

        self.run(clear())

    def jump(self, time: timedelta) -> None:
        self.now += time
        # The queue goes by the database's clock.
        self.fetch("UPDATE pgqueuer SET execute_after = execute_after - $1::interval", time)

    def fetch(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        async def fetch() -> list[dict[str, Any]]:
            return [dict(row) for row in await self._connection.fetch(query, *arguments)]

        return self.run(fetch())

    async def put(self, request: SignedRequest, data: bytes) -> int:
        """The status that a PUT to a signed URL is answered with."""
        answer = await self._http.put(request.url, content=data, headers=dict(request.headers))
        return answer.status_code

    def keys(self) -> dict[str, int]:
        """All stored objects, with their sizes in bytes."""

        async def keys() -> dict[str, int]:
            return {stored.key: stored.size async for stored in self.storage.storage.list("")}

        return self.run(keys())

    def open_uploads(self) -> set[str]:
        """Ids of the uploads in parts that have not ended."""

        async def listed() -> set[str]:
            return {upload.upload_id async for upload in self.storage.storage.list_multiparts()}

        return self.run(listed())

    def key_of(self, media_id: uuid.UUID) -> str:
        """Empty when it is gone."""
        return next((row["storage_key"] for row in self.fetch(_KEY, media_id)), "")

    def file(self, key: str) -> Path:
        return self.services.settings.files_dir / key

    def due_jobs(self) -> list[dict[str, Any]]:
        return self.fetch("SELECT id, entrypoint, payload FROM pgqueuer WHERE execute_after <= now() ORDER BY id")

    @contextmanager
    def spooled(self, content: Content) -> Iterator[Spooled]:
        path = self.services.scratch / uuid.uuid4().hex
        path.write_bytes(content.data)
        yield Spooled(path, "file", len(content.data), content.sha256, content.data[:HEAD_BYTES])
        path.unlink()
