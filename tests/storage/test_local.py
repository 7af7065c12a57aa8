import asyncio
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

from storage.base import InvalidKey, ObjectNotFound, SizeMismatch, StorageUnavailable
from storage.local import INCOMING, UPLOADS, LocalStorage
from storage.signing import UrlSigner
from tests.contracts.waiting import eventually

JPEG = "image/jpeg"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "objects"


@pytest.fixture
def storage(root: Path) -> LocalStorage:
    return LocalStorage(root, signer=UrlSigner(b"a secret for tests only"), base_url="http://localhost/files")


async def read(storage: LocalStorage, key: str) -> bytes:
    return b"".join([chunk async for chunk in storage.open(key)])


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


async def test_a_file_is_linked_not_copied(storage: LocalStorage, root: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"bytes")
    await storage.put("a/b.jpg", source, size=5, content_type=JPEG)

    assert (root / "a/b.jpg").samefile(source)
    assert files_below(root) == ["a/b.jpg"]


async def test_a_file_that_is_not_handed_over_is_copied(storage: LocalStorage, root: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    with source.open("wb") as kept:
        kept.write(b"bytes")
        kept.flush()
        os.utime(source, (1, 1))
        put = await storage.put("a/b.jpg", source, size=5, content_type=JPEG, handed_over=False)
        kept.write(b" and more")
    assert (put, await read(storage, "a/b.jpg")) == (await storage.head("a/b.jpg"), b"bytes")
    assert datetime.now(UTC) - put.modified < timedelta(minutes=1)
    with pytest.raises(SizeMismatch):
        await storage.put("a/b.jpg", source, size=5, content_type=JPEG, handed_over=False)
    assert await read(storage, "a/b.jpg") == b"bytes"
    assert files_below(root) == ["a/b.jpg"]


async def test_the_same_file_twice_leaves_nothing_behind(storage: LocalStorage, root: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"bytes")
    for _ in range(2):
        await storage.put("a/b.jpg", source, size=5, content_type=JPEG)
    assert files_below(root) == ["a/b.jpg"]


async def test_an_old_file_is_a_new_object(storage: LocalStorage, tmp_path: Path) -> None:
    """A sweep by age would otherwise remove it before its row is there."""
    source = tmp_path / "source"
    source.write_bytes(b"bytes")
    os.utime(source, (1, 1))
    put = await storage.put("a/b.jpg", source, size=5, content_type=JPEG)
    assert datetime.now(UTC) - put.modified < timedelta(minutes=1)


@pytest.fixture
def elsewhere(root: Path) -> Iterator[Path]:
    """A folder on another file system than the storage's."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == root.parent.stat().st_dev:
        pytest.skip("this machine has no second file system at hand")
    with TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


async def test_a_file_from_another_file_system_is_copied(storage: LocalStorage, root: Path, elsewhere: Path) -> None:
    source = elsewhere / "source"
    source.write_bytes(b"bytes")
    await storage.put("a/b.jpg", source, size=5, content_type=JPEG)
    with pytest.raises(SizeMismatch):
        await storage.put("a/c.jpg", source, size=4, content_type=JPEG)
    assert await read(storage, "a/b.jpg") == b"bytes"
    assert files_below(root) == ["a/b.jpg"]


async def test_a_source_that_is_a_symbolic_link_is_followed(storage: LocalStorage, root: Path, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"bytes")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    await storage.put("a/b.jpg", tmp_path / "link", size=5, content_type=JPEG)
    assert not (root / "a/b.jpg").is_symlink()
    assert await read(storage, "a/b.jpg") == b"bytes"


async def test_a_missing_source_stores_nothing(storage: LocalStorage, root: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable):
        await storage.put("a/b.jpg", tmp_path / "missing", size=5, content_type=JPEG)
    assert files_below(root) == []


async def test_no_symbolic_link_leads_out(storage: LocalStorage, root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.jpg").write_bytes(b"secret")
    (root / "folder").symlink_to(outside)
    (root / "file.jpg").symlink_to(outside / "secret.jpg")

    for key in ("folder/secret.jpg", "folder/new.jpg"):
        with pytest.raises(InvalidKey):
            await read(storage, key)
        with pytest.raises(InvalidKey):
            await storage.head(key)
        with pytest.raises(InvalidKey):
            await storage.put(key, b"x", size=1, content_type=JPEG)
        with pytest.raises(InvalidKey):
            await storage.delete([key])
    with pytest.raises(ObjectNotFound):
        await read(storage, "file.jpg")
    with pytest.raises(ObjectNotFound):
        await storage.head("file.jpg")
    assert [stored.key async for stored in storage.list("")] == []
    await storage.put("file.jpg", b"mine", size=4, content_type=JPEG)
    assert await read(storage, "file.jpg") == b"mine"
    assert (outside / "secret.jpg").read_bytes() == b"secret"
    assert files_below(outside) == ["secret.jpg"]


async def test_a_root_behind_a_link_is_fine(tmp_path: Path, storage: LocalStorage, root: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    linked = LocalStorage(tmp_path / "link", signer=storage.signer, base_url="http://localhost/files")
    await linked.put("a/b.jpg", b"bytes", size=5, content_type=JPEG)
    assert await read(storage, "a/b.jpg") == b"bytes"


async def test_folders_and_devices_are_no_objects(storage: LocalStorage, root: Path) -> None:
    (root / "a/folder.jpg").mkdir(parents=True)
    os.mkfifo(root / "a/pipe.jpg")
    for key in ("a/folder.jpg", "a/pipe.jpg"):
        with pytest.raises(ObjectNotFound):
            await read(storage, key)
        with pytest.raises(ObjectNotFound):
            await storage.head(key)
    assert [stored.key async for stored in storage.list("")] == []


async def test_empty_folders_go_with_their_last_object(storage: LocalStorage, root: Path) -> None:
    await storage.put("a/b/c.jpg", b"x", size=1, content_type=JPEG)
    await storage.put("a/d.jpg", b"x", size=1, content_type=JPEG)
    await storage.delete(["a/b/c.jpg"])
    assert not (root / "a/b").exists()
    await storage.delete(["a/d.jpg"])
    assert names_in(root) == [INCOMING, UPLOADS]


async def test_puts_and_deletes_of_one_folder_at_once(storage: LocalStorage, root: Path) -> None:
    async def come_and_go(key: str) -> None:
        for _ in range(30):
            await storage.put(key, b"x", size=1, content_type=JPEG)
            assert await read(storage, key) == b"x"
            await storage.delete([key])

    await asyncio.gather(*(come_and_go(f"a/b/{number}.jpg") for number in range(4)))
    assert names_in(root) == [INCOMING, UPLOADS]


async def test_a_reader_never_sees_a_part(storage: LocalStorage) -> None:
    contents = [bytes([byte]) * 600_000 for byte in range(2)]

    async def write() -> None:
        for turn in range(20):
            await storage.put("a/b.bin", contents[turn % 2], size=600_000, content_type="application/octet-stream")

    await storage.put("a/b.bin", contents[0], size=600_000, content_type="application/octet-stream")
    writing = asyncio.create_task(write())
    while not writing.done():
        assert await read(storage, "a/b.bin") in contents
    await writing


async def test_an_interrupted_put_is_swept(storage: LocalStorage, root: Path) -> None:
    (root / INCOMING / "left").write_bytes(b"half")
    await storage.put("a/b.jpg", b"bytes", size=5, content_type=JPEG)

    assert [stored.key async for stored in storage.list("")] == ["a/b.jpg"]
    assert await storage.sweep(older_than=datetime.now(UTC) - timedelta(hours=1)) == 0
    assert await storage.sweep(older_than=datetime.now(UTC) + timedelta(hours=1)) == 1
    assert files_below(root) == ["a/b.jpg"]


async def test_what_others_put_there_is_not_listed(storage: LocalStorage, root: Path) -> None:
    for name in ("Thumbs.db", "ä.jpg", ".hidden.jpg", "a.jpg"):
        (root / name).write_bytes(b"x")
    assert [stored.key async for stored in storage.list("")] == ["a.jpg"]


async def test_a_listing_survives_deletes_between_its_steps(storage: LocalStorage) -> None:
    keys = [f"a/{folder}/{number}.jpg" for folder in "xyz" for number in range(3)]
    for key in keys:
        await storage.put(key, b"x", size=1, content_type=JPEG)
    async for stored in storage.list("a/"):
        await storage.delete([stored.key])
    assert [stored.key async for stored in storage.list("")] == []


async def test_a_cancelled_reader_leaves_no_file_open(storage: LocalStorage, root: Path) -> None:
    await storage.put("a/b.bin", bytes(1_000_000), size=1_000_000, content_type="application/octet-stream")
    path = str(root / "a/b.bin")
    for steps in range(20):
        reading = asyncio.create_task(read(storage, "a/b.bin"))
        for _ in range(steps):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
    await eventually(lambda: path not in [file.path for file in psutil.Process().open_files()])


async def test_not_ready_without_its_folder(storage: LocalStorage, root: Path) -> None:
    await storage.ready()
    (root / INCOMING).rmdir()
    with pytest.raises(StorageUnavailable):
        await storage.ready()
    with pytest.raises(StorageUnavailable):
        await storage.put("a/b.jpg", b"bytes", size=5, content_type=JPEG)
