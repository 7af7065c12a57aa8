"""PNG photographs by FFmpeg, which undoes the filters of their lines in half of the time that Pillow takes for all."""

from typing import Any, Final

from PIL.PngImagePlugin import PngImageFile

from processing.limits import MIB

# By Pillow's names for what is in the file: 8 bits a channel, and colours. All else is rare, or small.
_PIXEL_FORMATS: Final = {"RGB": "rgb24", "RGBA": "rgba"}
_ROUNDED_UP: Final = 64  # pixels, at most
# FFmpeg wants the whole file in memory, beside the picture that is made of it.
_MOST_BYTES: Final = 64 * MIB


class PngFile(PngImageFile):
    """As Pillow's, but for its speed. What FFmpeg finds fault with is left to Pillow, to read or to refuse."""

    def load(self) -> Any:
        if self.tile and self.tile[0].args in _PIXEL_FORMATS and not self.is_animated and self._loaded():
            self.tile = []
        return super().load()

    def _loaded(self) -> bool:
        import av  # noqa: PLC0415  (100 MB of address space, for none of the other pictures)

        assert self.fp is not None
        position = self.fp.tell()
        self.fp.seek(0)
        data = self.fp.read(_MOST_BYTES + 1)
        self.fp.seek(position)
        if len(data) > _MOST_BYTES:
            return False
        decoder = av.CodecContext.create("png", "r")
        decoder.thread_count = 1
        # Unless it checks, it gives what it has where the file is broken. It rounds the width up.
        most = (self.width + _ROUNDED_UP) * self.height
        decoder.options = {"err_detect": "crccheck+explode", "max_pixels": str(most)}
        try:
            [frame] = decoder.decode(av.Packet(data))
        except (av.FFmpegError, ValueError):
            return False
        if (frame.width, frame.height, frame.format.name) != (*self.size, _PIXEL_FORMATS[self.mode]):
            return False
        self.load_prepare()
        [pixels] = frame.planes
        self.frombytes(memoryview(pixels), "raw", self.mode, pixels.line_size, 1)
        # Chunks behind the pixels may hold EXIF.
        while self.load_read(MIB):
            pass
        self.load_end()
        return True
