"""The four variants of photographs, by Heirloom and by sharp in turn: CPU time, and likeness to Lanczos' reduction."""

from __future__ import annotations

import asyncio
import io
import json
import multiprocessing
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from PIL import Image, ImageOps

from processing import pipeline, renditions
from processing.confinement import confine
from processing.kinds import FileType
from processing.limits import Limits
from processing.pngs import PngFile
from processing.sizes import scaled
from processing.variants import PICTURE_VARIANTS, Progress, Rendered, VariantName, VariantSpec
from tests.bench.material import photographs
from tests.bench.report import Figure, milliseconds
from tests.bench.ssim import ssim
from tests.node import installed

ROUNDS: Final = 5
MOST_OF_SHARPS_TIME: Final = 1.0
MOST_BELOW_SHARPS_SSIM: Final = 0.005

SHARP: Final = Path(__file__).with_name("sharp")
# Each size from the file, as its documentation has it; or one decode, and a size from the next larger. It is measured
# by what is faster for it.
WAYS: Final = ("clones", "cascade")
DEFAULT_EFFORT: Final = 4
DEFAULT_QUALITY: Final = 80
# sharp's own, and ours: nobody shall say that it is the effort alone.
EFFORTS: Final = (DEFAULT_EFFORT, PICTURE_VARIANTS[0].effort)

LARGEST_FIRST: Final = sorted(PICTURE_VARIANTS, key=lambda spec: spec.width, reverse=True)

T = TypeVar("T")
Variants = dict[VariantName, Path]
References = dict[VariantName, Image.Image]
# Of a photograph's path: the CPU seconds that it took, and what it made.
Render = Callable[[Path], Awaitable[tuple[float, Variants]]]


async def measure(folder: Path) -> list[Figure]:
    pictures = await asyncio.to_thread(photographs, folder)
    figures: list[Figure] = []
    spawn = multiprocessing.get_context("spawn")
    async with Sharp.started(folder) as sharp:
        with ProcessPoolExecutor(1, spawn, initializer=_confined, initargs=(folder, os.getpid())) as child:
            for type_, sources in pictures.items():
                figures += await _compared(sources, Heirloom(child, folder, type_), sharp)
    return figures


class Heirloom:
    """A process of ours, which works as those do that the worker has."""

    def __init__(self, child: ProcessPoolExecutor, folder: Path, type: FileType) -> None:  # noqa: A002
        self._child = child
        self._folder = folder
        self._type = type

    async def render(self, source: Path) -> tuple[float, Variants]:
        return await self._run(_rendered, source, self._type, self._folder)

    async def decode(self, source: Path) -> float:
        """CPU seconds of what comes before the first reduction."""
        return await self._run(_decoded, source)

    async def encode(self, references: References) -> float:
        return await self._run(_encoded, references)

    async def _run(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._child, function, *arguments)


class Sharp:
    """A process of Node's, in which sharp renders one picture after another."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self._process = process
        self._folder = folder

    @classmethod
    @asynccontextmanager
    async def started(cls, folder: Path) -> AsyncIterator[Sharp]:
        node, environment = await asyncio.to_thread(installed, SHARP, folder)
        process = await asyncio.create_subprocess_exec(
            node, SHARP / "render.mjs", env=environment, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdin is not None
        try:
            yield cls(process, folder)
        finally:
            process.stdin.close()
            await process.wait()

    async def render(self, way: str, effort: int, source: Path) -> tuple[float, Variants]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        variants = {spec.name: self._folder / f"sharp-{effort}-{spec.name}.webp" for spec in LARGEST_FIRST}
        specs = [_told(spec, variants[spec.name]) for spec in LARGEST_FIRST]
        task = {"source": str(source), "way": way, "effort": effort, "specs": specs}
        self._process.stdin.write(json.dumps(task).encode() + b"\n")
        answer = await self._process.stdout.readline()
        assert answer, "Node ended, and has said why"
        return float(answer), variants

    async def faster(self, effort: int, source: Path) -> Render:
        """The way that is to be compared; tried twice, since the first time of all warms up."""
        tried = [(await self.render(way, effort, source), way) for way in (*WAYS, *WAYS)]
        _, way = min((seconds, way) for (seconds, _), way in tried)
        return partial(self.render, way, effort)


def _told(spec: VariantSpec, path: Path) -> dict[str, str | int | bool]:
    return {
        "width": spec.width,
        "height": spec.height,
        "crop": spec.crop,
        "quality": DEFAULT_QUALITY,
        "path": str(path),
    }


@dataclass
class Tally:
    """Of one contender, over all photographs of a format."""

    seconds: list[float] = field(default_factory=lambda: [0.0] * ROUNDS)  # of CPU, in each round
    likeness: list[float] = field(default_factory=list)  # of each variant
    bytes: int = 0

    def add(self, made: Variants, references: References) -> None:
        for name, path in made.items():
            with Image.open(path) as image:
                self.likeness.append(ssim(image.convert("RGB"), references[name]))
            self.bytes += path.stat().st_size


async def _compared(sources: Sequence[Path], heirloom: Heirloom, sharp: Sharp) -> list[Figure]:
    ours, *sharps = tallies = [Tally() for _ in (None, *EFFORTS)]
    decoding, encoding = [0.0] * ROUNDS, [0.0] * ROUNDS
    for source in sources:
        references = await asyncio.to_thread(_references, source)
        await heirloom.render(source)  # warms up
        renders = [heirloom.render, *[await sharp.faster(effort, source) for effort in EFFORTS]]
        for number in range(ROUNDS):
            for tally, render in zip(tallies, renders, strict=True):
                seconds, made = await render(source)
                tally.seconds[number] += seconds
                if number == 0:
                    await asyncio.to_thread(tally.add, made, references)
            decoding[number] += await heirloom.decode(source)
            encoding[number] += await heirloom.encode(references)
    figures = [_times(f"{sources[0].suffix[1:]}: Heirloom", ours.seconds, len(sources))]
    for effort, tally in zip(EFFORTS, sharps, strict=True):
        # Judged by what sharp does unless it is told otherwise.
        time, below = (MOST_OF_SHARPS_TIME, MOST_BELOW_SHARPS_SSIM) if effort == DEFAULT_EFFORT else (None, None)
        lacking = max(its - our for our, its in zip(ours.likeness, tally.likeness, strict=True))
        figures += [
            _times(f"  sharp, effort {effort}", tally.seconds, len(sources)),
            Figure("    of its time Heirloom takes", _ratios(ours.seconds, tally.seconds), "×", time),
            Figure("    of its bytes Heirloom's have", [ours.bytes / tally.bytes], "×"),
            Figure("    above Heirloom's SSIM, at most", [round(lacking, 4)], "", below),
        ]
    return [
        *figures,
        Figure("  SSIM of Heirloom's", ours.likeness, ""),
        Figure("  decoding alone", [100 * share for share in _ratios(decoding, ours.seconds)], "%"),
        Figure("  encoding alone", [100 * share for share in _ratios(encoding, ours.seconds)], "%"),
    ]


def _times(name: str, seconds: Sequence[float], pictures: int) -> Figure:
    return milliseconds(f"{name}, CPU a picture", [each / pictures for each in seconds])


def _ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [our / their for our, their in zip(ours, theirs, strict=True)]


def _references(source: Path) -> References:
    """What the variants would be like if nothing were spared: from all pixels, by Lanczos, and never encoded."""
    with Image.open(source) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    found = {}
    for spec in PICTURE_VARIANTS:
        reduce = ImageOps.fit if spec.crop else ImageOps.contain
        found[spec.name] = reduce(upright, (spec.width, spec.height), Image.Resampling.LANCZOS)
    return found


# What follows runs in the process that is measured.


def _confined(folder: Path, parent: int) -> None:
    confine(Limits(), folder, 0, parent)


def _rendered(source: Path, type: FileType, folder: Path) -> tuple[float, Variants]:  # noqa: A002
    made: Variants = {}

    def tell(told: Rendered | Progress) -> None:
        if isinstance(told, Rendered):
            made[told.name] = told.path

    began = time.process_time()
    pipeline.produce(source, type, folder, Limits(), tell)
    return time.process_time() - began, made


def _decoded(source: Path) -> float:
    began = time.process_time()
    opened = PngFile if source.suffix == ".png" else Image.open
    with source.open("rb") as file, opened(file) as image:
        size = scaled(image.size, renditions.scale(LARGEST_FIRST[0], image.size))
        image.draft(None, size)
        image.load()
    return time.process_time() - began


def _encoded(references: References) -> float:
    began = time.process_time()
    for spec in PICTURE_VARIANTS:
        references[spec.name].save(io.BytesIO(), "WEBP", quality=spec.quality, method=spec.effort)
    return time.process_time() - began
