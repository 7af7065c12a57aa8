"""Where media may be placed: a table in code. A further kind of entity needs rows here, and no new table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from app.errors import BadInput, FileTooLarge, UnsupportedType
from app.tables import EntityKind
from processing.kinds import MediaKind

MIB: Final = 1024 * 1024
ANY_KIND: Final = frozenset(MediaKind)
IMAGES: Final = frozenset({MediaKind.IMAGE})

# What people look at while they wait is processed before all else.
PRIORITY_FIRST: Final = 100
PRIORITY_NORMAL: Final = 10
PRIORITY_AGAIN: Final = 5  # reprocessing gives way to whoever has just uploaded
PRIORITY_LOWEST: Final = -10  # what nobody asked for by name, a changed spec for example

DEFAULT_SLOT: Final = "photos"


@dataclass(frozen=True, slots=True)
class Slot:
    """One named place at an entity. `max_bytes` is a file's; None leaves it to the upload's own limit."""

    name: str
    kinds: frozenset[MediaKind] = ANY_KIND
    single: bool = False
    max_bytes: int | None = None
    priority: int = PRIORITY_NORMAL

    def admit(self, kind: MediaKind, size_bytes: int) -> None:
        """Raises UnsupportedType or FileTooLarge when such a file has no place here."""
        if kind not in self.kinds:
            allowed = " or ".join(sorted(kind.lower() for kind in self.kinds))
            raise UnsupportedType(f"The slot “{self.name}” takes {allowed}, and this is {kind.lower()}.", "file")
        if self.max_bytes is not None and size_bytes > self.max_bytes:
            raise FileTooLarge(f"The slot “{self.name}” takes files up to {self.max_bytes // MIB} MiB.", "file")


PHOTOS: Final = Slot("photos", kinds=frozenset({MediaKind.IMAGE, MediaKind.VIDEO}))
DOCUMENTS: Final = Slot("documents", kinds=frozenset({MediaKind.DOCUMENT, MediaKind.IMAGE}))
RECORDINGS: Final = Slot("recordings", kinds=frozenset({MediaKind.AUDIO, MediaKind.VIDEO}))
AVATAR: Final = Slot("avatar", kinds=IMAGES, single=True, max_bytes=20 * MIB, priority=PRIORITY_FIRST)
COVER: Final = Slot("cover", kinds=IMAGES, single=True, max_bytes=50 * MIB, priority=PRIORITY_FIRST)

# Media without an entity belongs to its owner alone.
LIBRARY: Final = Slot("library")

_SLOTS: Final[dict[EntityKind, tuple[Slot, ...]]] = {
    EntityKind.PERSON: (PHOTOS, DOCUMENTS, RECORDINGS),
    EntityKind.PROFILE: (PHOTOS, AVATAR, COVER),
}

# The media of these slots is replaced with its bytes, and may hold bytes that the library has too.
SINGLE_SLOTS: Final = frozenset(slot.name for slots in _SLOTS.values() for slot in slots if slot.single)


def find(kind: EntityKind, name: str | None) -> Slot:
    """The slot of that name at an entity of that kind; `photos` where none is named.

    Raises BadInput that lists the slots there are.
    """
    wanted = name or DEFAULT_SLOT
    for slot in _SLOTS[kind]:
        if slot.name == wanted:
            return slot
    there_are = ", ".join(slot.name for slot in _SLOTS[kind])
    raise BadInput(f"A {kind.lower()} has no slot “{wanted}”; there are {there_are}.", "slot")


_NAMED: Final = {slot.name: slot for slots in _SLOTS.values() for slot in slots}


def named(name: str) -> Slot:
    """The slot of that name, at whichever entity: a name means the same everywhere."""
    return _NAMED[name]
