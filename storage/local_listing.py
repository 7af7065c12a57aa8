"""What is in local storage's folders, as objects in the order of their keys."""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from storage.base import InvalidKey, StorageUnavailable, StoredObject
from storage.keys import content_type_of, validate_key
from storage.local_files import etag_of, failures


def walk(root: Path, folder: str, prefix: str) -> Iterator[StoredObject]:
    """Every object below `folder` (empty, or with its slash) whose key starts with `prefix`.

    Held of each folder on the way down are the names, of some 100 bytes each. Raises StorageUnavailable.
    """
    for name in _names(root / folder, folder, prefix):
        key = folder + name
        if name.endswith("/"):
            yield from walk(root, key, prefix)
            continue
        facts = _facts(f"{root}/{key}")
        if facts is not None and stat.S_ISREG(facts.st_mode):
            with suppress(InvalidKey):  # put here by somebody else
                yield stored_object(validate_key(key), facts)


def stored_object(key: str, facts: os.stat_result) -> StoredObject:
    modified = datetime.fromtimestamp(facts.st_mtime, UTC)
    return StoredObject(key, facts.st_size, content_type_of(key), etag_of(facts), modified)


def _names(path: Path, folder: str, prefix: str) -> Sequence[str]:
    """What may lead to the prefix, sorted; folders with their slash: `a.jpg`, `a-b/` come before `a/`, as on S3."""
    try:
        with os.scandir(path) as entries:
            # By the name first: to ask each of a hundred thousand whether it is a folder takes far longer.
            leading = (entry for entry in entries if entry.name[0] != "." and _may_lead_to(folder + entry.name, prefix))
            names = (f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name for entry in leading)
            return sorted(name for name in names if _leads_to(folder + name, prefix))
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise StorageUnavailable(f"listing {folder} failed: {error.strerror}") from error


def _may_lead_to(key: str, prefix: str) -> bool:
    return key.startswith(prefix) or prefix.startswith(key)


def _leads_to(key: str, prefix: str) -> bool:
    return key.startswith(prefix) or (key.endswith("/") and prefix.startswith(key))


def _facts(path: str) -> os.stat_result | None:
    """None for what was deleted meanwhile."""
    with failures(f"listing {path}"), suppress(FileNotFoundError, NotADirectoryError):
        return os.lstat(path)
    return None
