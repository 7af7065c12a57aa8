"""The tree of expected failures.

HeirloomError
├── BadInput            what was asked makes no sense, or is out of bounds
├── Unauthenticated     nobody is signed in, or the token is of no use
├── Forbidden           the viewer sees it and may not change it
├── NotFound            it does not exist, or not for this viewer
├── Conflict            it contradicts what is there
├── FileTooLarge        more bytes than this place takes
├── UnsupportedType     bytes of a kind that this place does not take
├── CursorExpired       events behind this cursor are not kept any more
├── QuotaExceeded       the account is full
├── RateLimited         too often
└── StorageFailed       the object storage does not answer

An operation raises them; mutations answer them as data (`errors`), queries as GraphQL errors with `extensions.code`.
Anything else that is raised is unexpected: logged in full, and masked at the edge.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import ClassVar


class ErrorCode(StrEnum):
    BAD_INPUT = "BAD_INPUT"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    FORBIDDEN = "FORBIDDEN"
    NOT_FOUND = "NOT_FOUND"
    CONFLICT = "CONFLICT"
    FILE_TOO_LARGE = "FILE_TOO_LARGE"
    UNSUPPORTED_TYPE = "UNSUPPORTED_TYPE"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    CURSOR_EXPIRED = "CURSOR_EXPIRED"
    RATE_LIMITED = "RATE_LIMITED"
    STORAGE_UNAVAILABLE = "STORAGE_UNAVAILABLE"


class HeirloomError(Exception):
    """`path` leads to the argument at fault, in the operation's own (snake case) names."""

    code: ClassVar[ErrorCode]

    def __init__(self, message: str, *path: str) -> None:
        super().__init__(message)
        self.message = message
        self.path = path


class BadInput(HeirloomError):
    code = ErrorCode.BAD_INPUT


class Unauthenticated(HeirloomError):
    code = ErrorCode.UNAUTHENTICATED


class Forbidden(HeirloomError):
    code = ErrorCode.FORBIDDEN


class NotFound(HeirloomError):
    code = ErrorCode.NOT_FOUND


class Conflict(HeirloomError):
    code = ErrorCode.CONFLICT


class FileTooLarge(HeirloomError):
    code = ErrorCode.FILE_TOO_LARGE


class UnsupportedType(HeirloomError):
    code = ErrorCode.UNSUPPORTED_TYPE


class QuotaExceeded(HeirloomError):
    code = ErrorCode.QUOTA_EXCEEDED


class CursorExpired(HeirloomError):
    code = ErrorCode.CURSOR_EXPIRED


class RateLimited(HeirloomError):
    """`retry_after` is in whole seconds, as in the header of that name."""

    code = ErrorCode.RATE_LIMITED

    def __init__(self, seconds: float, message: str | None = None) -> None:
        self.retry_after = max(1, math.ceil(seconds))
        super().__init__(message or f"Too often. Try again in {self.retry_after} s.")


class StorageFailed(HeirloomError):
    code = ErrorCode.STORAGE_UNAVAILABLE


@contextmanager
def relocated(*path: str, origin: tuple[str, ...] = ()) -> Iterator[None]:
    """What is blamed on `origin` inside (on nothing, unless said) is the fault of the argument at `path` here."""
    try:
        yield
    except HeirloomError as error:
        if error.path == origin:
            error.path = path
        raise
