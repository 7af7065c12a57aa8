"""Why a file could not be processed."""

from enum import StrEnum


class FailureCode(StrEnum):
    CORRUPT = "CORRUPT"
    UNSUPPORTED = "UNSUPPORTED"
    CHECKSUM_MISMATCH = "CHECKSUM_MISMATCH"
    NOT_UPLOADED = "NOT_UPLOADED"
    TOO_MANY_PIXELS = "TOO_MANY_PIXELS"
    TIMEOUT = "TIMEOUT"
    CRASHED = "CRASHED"
    STORAGE = "STORAGE"


class ProcessingFailed(Exception):
    """An expected failure. `message` is shown to people: no paths in it, and no words of a library."""

    def __init__(self, code: FailureCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"
