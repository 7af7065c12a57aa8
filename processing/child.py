"""What a child process of the sandbox does: it waits for a file, works at it, tells of it, and waits for the next."""

import os
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Final, TypeAlias

import msgspec
from msgspec import Struct

from processing.confinement import confine, grant_time
from processing.failures import FailureCode, ProcessingFailed
from processing.kinds import FileType
from processing.limits import Limits
from processing.reports import Outcome, Reporter, report_ready
from processing.variants import Facts, Tell

# pipeline.produce, and what tests put in its place.
Producer: TypeAlias = Callable[[Path, FileType, Path, Limits, Tell], Facts]

_REQUESTS, _REPORTS, _ERRORS = 0, 1, 2  # file descriptors that the parent gives; libraries find nothing there


class Start(Struct):
    """The first line that a child reads. `module` has the `function` to call, `libraries` are loaded in advance."""

    limits: Limits
    scratch: str
    niceness: int
    parent: int
    module: str
    function: str
    libraries: tuple[str, ...]


class Task(Struct):
    """Each further line."""

    source: str
    type: FileType
    into: str


_start_decoder: Final = msgspec.json.Decoder(Start)
_task_decoder: Final = msgspec.json.Decoder(Task)


def serve() -> None:
    """Until the parent closes its end."""
    with os.fdopen(os.dup(_REQUESTS), "rb") as requests, os.fdopen(os.dup(_REPORTS), "wb", buffering=0) as sink:
        start = _start_decoder.decode(requests.readline())
        function: Producer = getattr(import_module(start.module), start.function)
        confine(start.limits, Path(start.scratch), start.niceness, start.parent)
        for library in start.libraries:
            import_module(library)
        _fall_silent()
        report_ready(sink)
        for line in requests:
            grant_time(start.limits.seconds)
            task = _task_decoder.decode(line)
            reporter = Reporter(sink, Path(task.into))
            reporter.end(_outcome(function, task, start.limits, reporter.tell))


def _outcome(function: Producer, task: Task, limits: Limits, tell: Tell) -> Outcome:
    try:
        return function(Path(task.source), task.type, Path(task.into), limits, tell)
    except ProcessingFailed as failure:
        return failure
    except MemoryError:
        return ProcessingFailed(FailureCode.TOO_MANY_PIXELS, "The file needs more memory than one may take.")
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            return error
        return RuntimeError(traceback.format_exc())


def _fall_silent() -> None:
    """What a library prints may quote the file, at any length."""
    with Path(os.devnull).open("r+b") as nothing:
        for descriptor in (_REQUESTS, _REPORTS, _ERRORS):
            os.dup2(nothing.fileno(), descriptor)
