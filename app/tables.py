"""The rows. They are the domain's objects; the GraphQL types are views of them.

Piccolo's `choices` are not enforced, so every closed set of values is a Check too. What Piccolo can't say (partial and
expression indexes, `event.xid`, the queue's own tables) stands in the raw steps of `migrations/`.
"""

from __future__ import annotations

from enum import Enum, StrEnum

from piccolo.columns import (
    JSONB,
    Array,
    BigInt,
    BigSerial,
    Boolean,
    DoublePrecision,
    ForeignKey,
    Integer,
    SmallInt,
    Text,
    Timestamptz,
    Varchar,
)
from piccolo.columns.base import OnDelete
from piccolo.constraints import Check, Unique
from piccolo.table import Table

from app.identifiers import UUID7
from processing.failures import FailureCode
from processing.kinds import MediaKind
from processing.variants import VariantName


class UserRole(StrEnum):
    USER = "USER"
    MODERATOR = "MODERATOR"
    ADMIN = "ADMIN"


class EntityKind(StrEnum):
    PERSON = "PERSON"
    PROFILE = "PROFILE"


class MediaStatus(StrEnum):
    PENDING = "PENDING"
    UPLOADED = "UPLOADED"
    PROCESSING = "PROCESSING"
    READY = "READY"
    FAILED = "FAILED"


class Moderation(StrEnum):
    PENDING = "PENDING"
    APPROVED = "APPROVED"
    REJECTED = "REJECTED"


class UploadMethod(StrEnum):
    SINGLE = "SINGLE"
    MULTIPART = "MULTIPART"


class UploadState(StrEnum):
    OPEN = "OPEN"
    COMPLETED = "COMPLETED"
    ABORTED = "ABORTED"
    EXPIRED = "EXPIRED"


class MediaSource(StrEnum):
    UPLOAD = "UPLOAD"


class EventKind(StrEnum):
    """The last two are told to nobody: the end of a session, and an entity, or what is at it, for cached reads."""

    UPLOADED = "UPLOADED"
    PROCESSING = "PROCESSING"
    READY = "READY"
    FAILED = "FAILED"
    UPDATED = "UPDATED"
    TRASHED = "TRASHED"
    RESTORED = "RESTORED"
    PURGED = "PURGED"
    SESSION_ENDED = "SESSION_ENDED"
    CHANGED = "CHANGED"


def one_of(column: str, values: type[Enum]) -> str:
    """SQL condition that holds a column to the values of an enum (and to null, where the column allows it)."""
    return f"{column} IN ({', '.join(repr(member.value) for member in values)})"


class UserAccount(Table, tablename="user_account"):
    """An account at an outside issuer has two more columns, which `app/issuers.py` alone asks for."""

    id = UUID7(primary_key=True)
    email = Varchar(length=254)  # RFC 5321, 4.5.3.1.3: the longest path, less its brackets
    password_hash = Text()
    display_name = Varchar(length=200)
    role = Varchar(length=20, default=UserRole.USER.value)
    quota_bytes = BigInt(null=True, default=None)
    created_at = Timestamptz()
    user_account_role = Check(one_of("role", UserRole))


class Session(Table, tablename="session"):
    """One sign-in. `generation` is that of the one refresh token which is still good."""

    id = UUID7(primary_key=True)
    user = ForeignKey(references=UserAccount, on_delete=OnDelete.cascade, null=False)
    generation = Integer(default=0)
    created_at = Timestamptz()
    expires_at = Timestamptz()
    ended_at = Timestamptz(null=True, default=None)


class Entity(Table, tablename="entity"):
    """The supertype of everything that media can belong to: every permission question is asked of this one table."""

    id = UUID7(primary_key=True)
    kind = Varchar(length=20)
    public_id = Varchar(length=20, unique=True)
    name = Varchar(length=300)
    owner = ForeignKey(references=UserAccount, on_delete=OnDelete.cascade, null=False)
    parent: ForeignKey[Table] = ForeignKey(references="self", on_delete=OnDelete.set_null, null=True, default=None)
    created_at = Timestamptz()
    updated_at = Timestamptz()
    entity_kind = Check(one_of("kind", EntityKind))


class Person(Table, tablename="person"):
    entity = ForeignKey(references=Entity, on_delete=OnDelete.cascade, primary_key=True, null=False)
    given_name = Varchar(length=200, null=True, default=None)
    family_name = Varchar(length=200, null=True, default=None)
    birth_date = Varchar(length=40, null=True, default=None)
    death_date = Varchar(length=40, null=True, default=None)
    biography = Text(null=True, default=None)


class Profile(Table, tablename="profile"):
    entity = ForeignKey(references=Entity, on_delete=OnDelete.cascade, primary_key=True, null=False)
    # The person's entity: Piccolo can't refer to a table whose primary key is itself a foreign key.
    person = ForeignKey(references=Entity, on_delete=OnDelete.cascade, null=False, unique=True)
    bio = Text(null=True, default=None)


class Media(Table, tablename="media"):
    """The column `host` is the migration's, and kept by a trigger: the entity's owner, where it is not the media's."""

    id = UUID7(primary_key=True)
    public_id = Varchar(length=20, unique=True)
    owner = ForeignKey(references=UserAccount, on_delete=OnDelete.restrict, null=False)
    entity = ForeignKey(references=Entity, on_delete=OnDelete.set_null, null=True, default=None)
    slot = Varchar(length=40, null=True, default=None)
    kind = Varchar(length=20)
    status = Varchar(length=20)
    # the file
    filename = Varchar(length=255)
    content_type = Varchar(length=100)
    size_bytes = BigInt()
    # Computed from the bytes, never claimed: null until somebody has read them.
    sha256 = Varchar(length=64, null=True, default=None)
    # These very bytes came in by several direct uploads before their hash was known.
    is_copy = Boolean(default=False)
    storage_backend = Varchar(length=20)
    bucket = Varchar(length=63, null=True, default=None)
    storage_key = Varchar(length=1024, unique=True)
    # When the object was found to be gone, or never came.
    lost_at = Timestamptz(null=True, default=None)
    # what processing found
    width = Integer(null=True, default=None)
    height = Integer(null=True, default=None)
    duration = DoublePrecision(null=True, default=None)
    page_count = Integer(null=True, default=None)
    perceptual_hash = Varchar(length=16, null=True, default=None)
    thumbhash = Varchar(length=60, null=True, default=None)
    dominant_color = Varchar(length=7, null=True, default=None)
    taken_at = Timestamptz(null=True, default=None)
    latitude = DoublePrecision(null=True, default=None)
    longitude = DoublePrecision(null=True, default=None)
    exif = JSONB(null=True, default=None)
    # `processing.variants.recipe` by which the variants were made, or the attempt failed; null before there were any.
    recipe = Varchar(length=12, null=True, default=None)
    processing_attempts = SmallInt(default=0)
    failure_code = Varchar(length=20, null=True, default=None)
    failure_message = Text(null=True, default=None)
    # what people say of it
    title = Varchar(length=300, null=True, default=None)
    description = Text(null=True, default=None)
    alt_text = Text(null=True, default=None)
    tags = Array(base_column=Varchar(length=100), default=list)
    sort_order = Integer(default=0)
    is_primary = Boolean(default=False)
    is_public = Boolean(default=False)
    moderation = Varchar(length=20, default=Moderation.APPROVED.value)
    source = Varchar(length=20, default=MediaSource.UPLOAD.value)
    source_url = Text(null=True, default=None)
    idempotency_key = Varchar(length=200, null=True, default=None)
    created_at = Timestamptz()
    updated_at = Timestamptz()
    deleted_at = Timestamptz(null=True, default=None)

    media_kind = Check(one_of("kind", MediaKind))
    media_status = Check(one_of("status", MediaStatus))
    media_moderation = Check(one_of("moderation", Moderation))
    media_source = Check(one_of("source", MediaSource))
    media_failure_code = Check(one_of("failure_code", FailureCode))
    media_failure_told = Check("(status = 'FAILED') = (failure_code IS NOT NULL)")
    media_hashed_once_ready = Check("status <> 'READY' OR sha256 IS NOT NULL")
    media_size_bytes = Check("size_bytes >= 0")
    media_slot_at_entity = Check("entity IS NULL OR slot IS NOT NULL")
    media_latitude = Check("latitude BETWEEN -90 AND 90")
    media_longitude = Check("longitude BETWEEN -180 AND 180")


class UploadSession(Table, tablename="upload_session"):
    """A direct upload: what its client promised, and how the bytes come.

    An ended one is kept for a while, so that repeating its completion gives the same answer.
    """

    id = UUID7(primary_key=True)
    media = ForeignKey(references=Media, on_delete=OnDelete.cascade, null=False, unique=True)
    owner = ForeignKey(references=UserAccount, on_delete=OnDelete.cascade, null=False)
    method = Varchar(length=20)
    state = Varchar(length=20, default=UploadState.OPEN.value)
    content_type = Varchar(length=100)
    size_bytes = BigInt()
    sha256 = Varchar(length=64, null=True, default=None)
    # One PUT goes here, and each attempt to complete copies it to a new key: a signed URL outlives the completion.
    staging_key = Varchar(length=1024, null=True, default=None)
    upload_id = Varchar(length=1024, null=True, default=None)
    part_size = BigInt(null=True, default=None)
    created_at = Timestamptz()
    expires_at = Timestamptz()
    ended_at = Timestamptz(null=True, default=None)

    upload_session_method = Check(one_of("method", UploadMethod))
    upload_session_state = Check(one_of("state", UploadState))
    upload_session_size_bytes = Check("size_bytes > 0")
    upload_session_ended = Check("(state = 'OPEN') = (ended_at IS NULL)")
    upload_session_single = Check("(method = 'SINGLE') = (staging_key IS NOT NULL)")
    upload_session_multipart = Check("(method = 'MULTIPART') = (upload_id IS NOT NULL AND part_size IS NOT NULL)")


class Variant(Table, tablename="variant"):
    id = UUID7(primary_key=True)
    media = ForeignKey(references=Media, on_delete=OnDelete.cascade, null=False)
    name = Varchar(length=20)
    digest = Varchar(length=64)
    content_type = Varchar(length=100)
    width = Integer()
    height = Integer()
    size_bytes = BigInt()
    storage_key = Varchar(length=1024)

    variant_of_spec = Unique([media, name, digest])
    variant_name = Check(one_of("name", VariantName))


class Event(Table, tablename="event"):
    """What happened, append-only. No foreign keys: an event outlives what it tells of.

    The column `xid`, the writing transaction's id by which readers keep commit order, is the migration's: Piccolo has
    no xid8. So are `entity_owner` and `is_public`, which `app.events` alone writes, and the table of `event_cursors`.
    """

    id = BigSerial(primary_key=True)
    kind = Varchar(length=20)
    media = UUID7(null=True, default=None, index=False)
    entity = UUID7(null=True, default=None, index=False)
    owner = UUID7(null=True, default=None, index=False)
    session = UUID7(null=True, default=None, index=False)
    data = JSONB(default="{}")
    occurred_at = Timestamptz()

    event_kind = Check(one_of("kind", EventKind))
