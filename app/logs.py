"""How the log is written: a JSON object a line, or lines for people.

Every record carries the id of the call it belongs to. What it says in fields comes as `extra={"fields": …}`.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import orjson

from app import calls, tracing

# Their own words about each job, request and retry; what matters of it is told by us.
NOISY: Final = ("pgqueuer", "uvicorn", "botocore", "aiobotocore", "httpx", "asyncio")


def set_up(level: str, form: str) -> None:
    """The root logger, whatever it had before, to standard error."""
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # no line tells of these
    logging.basicConfig(level=level.upper(), handlers=[handler(form, sys.stderr)], force=True)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)


def handler(form: str, stream: TextIO) -> logging.Handler:
    """`form` is `json`, `text`, or `auto`: text on a terminal alone."""
    made = logging.StreamHandler(stream)
    for_people = form == "text" or (form == "auto" and stream.isatty())
    made.setFormatter(TextFormatter() if for_people else JsonFormatter())
    return made


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _moment(record).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if call := calls.current():
            line["request_id"] = call.id
        if trace_id := tracing.trace_id():
            line["trace_id"] = trace_id
        line |= _fields(record)
        if trace := _trace(self, record):
            line["exception"] = trace
        try:
            return orjson.dumps(line, default=str).decode()
        except orjson.JSONEncodeError:  # a lone surrogate, or a number that is too large
            return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = _moment(record).astimezone().strftime("%H:%M:%S")
        line = f"{time} {record.levelname:<7} {record.name.removeprefix('app.')}: {record.getMessage()}"
        told = {"ms", "bytes", "user", "operation"}
        line += "".join(f" {name}={value}" for name, value in _fields(record).items() if name in told)
        if (call := calls.current()) and record.levelno >= logging.WARNING:
            line += f" request_id={call.id}"
        trace = _trace(self, record)
        return "\n".join(_printable(each) for each in (line, *trace.splitlines()))


def _printable(line: str) -> str:
    """No control character may pass for an end of a line, or move a terminal's cursor."""
    return line if line.isprintable() else "".join(each if each.isprintable() else repr(each)[1:-1] for each in line)


def _moment(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, "fields", {})
    return fields


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return formatter.formatException(record.exc_info) if record.exc_info and record.exc_info[0] else ""
