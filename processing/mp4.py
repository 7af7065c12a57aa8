"""Writing an MP4 that plays while it is still being loaded."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import av
from av.container import Flags, OutputContainer

from processing.failures import FailureCode, ProcessingFailed
from processing.limits import Limits

_BUFFER_BYTES: Final = 256 * 1024


@contextmanager
def written(path: Path, limits: Limits) -> Iterator[OutputContainer]:
    """An MP4 whose index comes first, without a word on who made it, and when.

    Raises ProcessingFailed UNSUPPORTED where it would become larger than `limits.output_bytes`, and what writing does.
    """
    with path.open("wb") as opened:
        file = _Bounded(opened, limits.output_bytes)
        try:
            with av.open(
                file,
                "w",
                format="mp4",
                # The index comes first: all is moved once it is known, for which FFmpeg opens the file a second time.
                container_options={"movflags": "faststart"},
                buffer_size=_BUFFER_BYTES,
                io_open=lambda *_: path.open("rb"),
            ) as output:
                output.flags |= Flags.bitexact.value  # type: ignore[operator]  # nor does it say what wrote it
                yield output
        except Exception as error:
            # FFmpeg still tries to end the file, and reports that it can't rather than why.
            raise file.failure or error from error


class _Bounded:
    """A file that is written up to a number of bytes, and remembers what went wrong."""

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file = file
        self._most = most
        self.failure: Exception | None = None
        self.name = file.name
        self.seek = file.seek
        self.tell = file.tell

    def write(self, data: bytes) -> int:
        if self.failure:
            return len(data)
        try:
            self._check(len(data))
            return self._file.write(data)
        except Exception as error:
            self.failure = error
            raise

    def _check(self, more: int) -> None:
        if self._file.tell() + more > self._most:
            message = "This film is too long to be made playable."
            raise ProcessingFailed(FailureCode.UNSUPPORTED, message)
