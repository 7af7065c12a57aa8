"""Names of stored objects: made here by the server, never taken from a client.

A medium's original is `<stem>.<ext>`, its variants `<stem>_<name>-<digest>.<ext>` beside it. A stem ends with random
characters of fixed length and is never used again.
"""

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID, uuid4

from storage.base import InvalidKey

DEFAULT_KEY_TEMPLATE = "{entity_type}/{media_type}/{entity_id}/{YYYY-MM}/{filename}"

MAX_KEY_BYTES = 1024  # S3's limit
MAX_SEGMENT_BYTES = 255  # NAME_MAX of the usual file systems: local storage makes a segment a file's name
VARIANT_SUFFIX_BYTES = 64  # room kept behind a stem for `_<name>-<digest>.<ext>`
RANDOM_BYTES = 8  # beside slot, entity and second: 2**64 makes a clash, and guessing, hopeless

STAGING_FOLDER = "incoming"  # what a signed URL may still replace: no original is ever below it

# A segment that begins with a dot would be `.`, `..` or the folder of local storage's unfinished files.
_KEY = re.compile(r"(?!\.)[A-Za-z0-9._-]+(?:/(?!\.)[A-Za-z0-9._-]+)*", re.ASCII)
_SEGMENT = re.compile(r"(?!\.)[A-Za-z0-9._-]+", re.ASCII)
_FIELD = re.compile(r"\{([^{}]*)\}")

CONTENT_TYPES = {
    "jpg": "image/jpeg",
    "png": "image/png",
    "gif": "image/gif",
    "webp": "image/webp",
    "avif": "image/avif",
    "heic": "image/heic",
    "heif": "image/heif",
    "tiff": "image/tiff",
    "bmp": "image/bmp",
    "dng": "image/x-adobe-dng",
    "cr2": "image/x-canon-cr2",
    "cr3": "image/x-canon-cr3",
    "nef": "image/x-nikon-nef",
    "arw": "image/x-sony-arw",
    "orf": "image/x-olympus-orf",
    "rw2": "image/x-panasonic-rw2",
    "raf": "image/x-fuji-raf",
    "pef": "image/x-pentax-pef",
    "mp4": "video/mp4",
    "mov": "video/quicktime",
    "webm": "video/webm",
    "mkv": "video/matroska",  # RFC 9559
    "avi": "video/vnd.avi",
    "mp3": "audio/mpeg",
    "m4a": "audio/mp4",
    "ogg": "audio/ogg",
    "wav": "audio/wav",  # IANA knows only audio/vnd.wave (RFC 2361), which Firefox refuses to play
    "flac": "audio/flac",
    "pdf": "application/pdf",
    "json": "application/json",
    "bin": "application/octet-stream",
}
"""A key's extension tells its content type: local storage keeps no other record of it."""

_EXTENSIONS = {content_type: extension for extension, content_type in CONTENT_TYPES.items()}


def content_type_of(key: str) -> str:
    """The content type told by the key's extension. Raises InvalidKey for an extension that is not in the table."""
    try:
        return CONTENT_TYPES[key.rpartition(".")[2]]
    except KeyError:
        raise InvalidKey(f"the key {key!r} ends in no known extension") from None


def extension_of(content_type: str) -> str:
    """The extension, without its dot, for a key of this content type. Raises ValueError for an unknown type."""
    try:
        return _EXTENSIONS[content_type]
    except KeyError:
        raise ValueError(f"no extension is known for the content type {content_type!r}") from None


def check_content_type(key: str, content_type: str) -> None:
    """Raises ValueError when the key's extension tells another type: the two storages would then answer differently."""
    if content_type_of(key) != content_type:
        raise ValueError(f"the key {key!r} says {content_type_of(key)}, not {content_type}")


def validate_key(key: str) -> str:
    """`key` itself. Raises InvalidKey for empty, hidden and dot segments, other characters, and excessive length."""
    if not _KEY.fullmatch(key):
        raise InvalidKey(f"the key {key[:80]!r} has an empty or hidden segment, or a character not in [A-Za-z0-9._/-]")
    if len(key) > MAX_KEY_BYTES:
        raise InvalidKey(f"the key {key[:80]!r}… has more than {MAX_KEY_BYTES} bytes")
    if len(key) > MAX_SEGMENT_BYTES and max(map(len, key.split("/"))) > MAX_SEGMENT_BYTES:
        raise InvalidKey(f"the key {key[:80]!r}… has a segment of more than {MAX_SEGMENT_BYTES} bytes")
    return key


def validate_prefix(prefix: str) -> str:
    """`prefix` itself: the beginning of a valid key, or empty. Raises InvalidKey."""
    if prefix:
        validate_key(prefix.removesuffix("/"))
    return prefix


def random_token() -> str:
    """Random characters of fixed length: no stem is then the beginning of another."""
    return secrets.token_hex(RANDOM_BYTES)


@dataclass(frozen=True, slots=True)
class KeyTemplate:
    """Where originals of an entity's media are stored.

    Raises ValueError with a sentence that says what is wrong with `template`.
    """

    template: str = DEFAULT_KEY_TEMPLATE

    def __post_init__(self) -> None:
        head, _, last = self.template.rpartition("/")
        if last != "{filename}" or "{filename}" in head:
            raise ValueError("the key template must end in the segment {filename}, and name it only there")
        widest = {
            "entity_type": "t" * 32,
            "media_type": "t" * 16,
            "entity_id": str(UUID(int=0)),
            "filename": "f" * 128,
            **_dates(datetime(2000, 1, 1, tzinfo=UTC)),
        }
        if self.template.startswith(f"{STAGING_FOLDER}/"):
            raise ValueError(f"the folder {STAGING_FOLDER}/ is for uploads that are not complete")
        unknown = sorted(set(_FIELD.findall(self.template)) - widest.keys())
        if unknown:
            raise ValueError(f"the key template has no field {unknown[0]!r}: it knows {', '.join(widest)}")
        try:
            sample = validate_key(_fill(self.template, widest))
        except InvalidKey as error:
            raise ValueError(f"the key template does not make keys: {error}") from None
        if len(sample) + VARIANT_SUFFIX_BYTES > MAX_KEY_BYTES:
            raise ValueError(f"the key template makes keys of more than {MAX_KEY_BYTES} bytes")

    def key(
        self,
        *,
        entity_type: str,
        media_type: str,
        entity_id: UUID,
        slot: str,
        extension: str,
        now: datetime,
        random: str | None = None,
    ) -> str:
        """A new key for an original in an entity's slot; `now` is aware, times are written in UTC.

        Raises InvalidKey when a value is more than letters, digits, `_` and `-`.
        """
        moment = now.astimezone(UTC)
        filename = f"{_segment(slot)}-{moment:%Y%m%d%H%M%S}-{random or random_token()}.{_segment(extension)}"
        fields = {
            "entity_type": _segment(entity_type),
            "media_type": _segment(media_type),
            "entity_id": str(entity_id),
            "filename": filename,
            **_dates(moment),
        }
        return validate_key(_fill(self.template, fields))


def key_without_entity(
    *, media_type: str, user_id: UUID, extension: str, now: datetime, unique: UUID | None = None
) -> str:
    """A new key for an original that belongs to no entity yet: `{media_type}/{user_id}/{timestamp_ms}-{uuid}.{ext}`."""
    timestamp_ms = int(now.timestamp() * 1000)
    name = f"{timestamp_ms}-{unique or uuid4()}.{_segment(extension)}"
    return validate_key(f"{_segment(media_type)}/{user_id}/{name}")


def staging_key(session_id: UUID, extension: str) -> str:
    """Where one PUT's bytes wait to be looked at: `incoming/{session}.{ext}`."""
    return validate_key(f"{STAGING_FOLDER}/{session_id}.{_segment(extension)}")


def variant_key(original_key: str, name: str, digest: str, extension: str = "webp") -> str:
    """The key of one variant, beside its original; the same name and digest give the same key."""
    suffix = f"_{_segment(name)}-{_segment(digest)}.{_segment(extension)}"
    if len(suffix) > VARIANT_SUFFIX_BYTES:
        raise InvalidKey(f"the variant's suffix {suffix!r} has more than {VARIANT_SUFFIX_BYTES} bytes")
    return validate_key(_stem(original_key) + suffix)


def medium_prefixes(original_key: str) -> tuple[str, str]:
    """The two prefixes that together cover all bytes of one medium, and of no other: the original, and its variants.

    The bare stem would not do: `photo-1` is also the beginning of `photo-12.jpg`.
    """
    stem = _stem(original_key)
    return f"{stem}.", f"{stem}_"


def _stem(original_key: str) -> str:
    folder, slash, filename = validate_key(original_key).rpartition("/")
    stem, dot, _ = filename.rpartition(".")
    if not dot:
        raise InvalidKey(f"the key {original_key!r} has no extension")
    return f"{folder}{slash}{stem}"


def _segment(value: str) -> str:
    lowered = value.lower()
    if not _SEGMENT.fullmatch(lowered) or "." in lowered:
        raise InvalidKey(f"{value[:80]!r} cannot be part of a key: letters, digits, _ and - can")
    return lowered


def _dates(moment: datetime) -> dict[str, str]:
    return {
        "YYYY-MM": f"{moment:%Y-%m}",
        "YYYY": f"{moment:%Y}",
        "MM": f"{moment:%m}",
        "DD": f"{moment:%d}",
    }


def _fill(template: str, fields: dict[str, str]) -> str:
    return _FIELD.sub(lambda match: fields[match[1]], template)
