"""What is sent to an S3: bytes, or a file as a stream."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from storage.base import CHUNK_BYTES, SizeMismatch

BUFFERED_BYTES = 8 * 1024 * 1024  # a source below this is sent as bytes: one read, and nothing to go wrong midway


class FileBody:
    """A file for botocore, a stream for aiohttp. Each attempt iterates anew, so that it can be sent again.

    aiohttp silently cuts a stream that is longer than its Content-Length, and waits for ever for the rest of a
    shorter one: the bytes are counted here.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size
        self.mismatch: SizeMismatch | None = None
        self.on_progress: Callable[[int], None] = lambda _position: None

    def __len__(self) -> int:
        return self._size

    def read(self, _amount: int = -1) -> bytes:
        raise NotImplementedError("botocore only looks whether there is a read")

    def seek(self, _offset: int, _whence: int = 0) -> int:
        return 0  # asked for before a redirected request; the next iteration starts over in any case

    async def __aiter__(self) -> AsyncIterator[bytes]:
        remaining = self._size
        file = await asyncio.to_thread(self._path.open, "rb")
        try:
            while remaining:
                # The last read asks for a byte too many, so that a longer file shows before its end has been sent.
                last = remaining <= CHUNK_BYTES
                chunk = await asyncio.to_thread(file.read, remaining + 1 if last else CHUNK_BYTES)
                if not chunk or len(chunk) > remaining:
                    self.mismatch = SizeMismatch(f"{self._path.name} changed while it was sent: not {self._size} bytes")
                    raise self.mismatch
                remaining -= len(chunk)
                self.on_progress(self._size - remaining)
                yield chunk
        finally:
            file.close()


async def body_of(source: bytes | Path, size: int) -> bytes | FileBody:
    """What to send. Raises SizeMismatch unless `source` has exactly `size` bytes."""
    actual = len(source) if isinstance(source, bytes) else (await asyncio.to_thread(source.stat)).st_size
    if actual != size:
        raise SizeMismatch(f"the source has {actual} bytes, {size} were announced")
    if isinstance(source, bytes):
        return source
    if size >= BUFFERED_BYTES:
        return FileBody(source, size)
    content = await asyncio.to_thread(source.read_bytes)
    if len(content) != size:
        raise SizeMismatch(f"{source.name} changed while it was read: not {size} bytes")
    return content
