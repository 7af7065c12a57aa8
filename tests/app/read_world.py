"""A family's person and profile, what can be done to them, and applications that look at them.

Three over one database, as three processes are: two that keep what they have read, each for itself, and one that keeps
nothing, of which the answers are the truth.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias, TypeVar

import httpx

from app import ingest, mending, renewal, trash, upload_endings
from app.access import Viewer
from app.known_keys import Known, Source
from app.main import create_app
from app.piccolo_conf import DB
from app.read_cache import ReadCache
from app.rendering import Sandboxes
from app.tables import Media, UserRole, Variant
from app.wiring import Services
from processing.limits import Limits
from processing.sandbox import Sandbox
from tests.app.in_process import somebody
from tests.client import Account, Json
from tests.pictures import photograph

FIRST, SECOND, TABLES = "first", "second", "tables"
NOBODY = str(uuid.UUID(int=0))

LOOK = """
    query($person: ID!, $profile: ID!) {
        viewer {
            profiles { nodes { id name bio updatedAt avatar { ...media } cover { id } person { id name } } }
            people(first: 1) { nodes { id name updatedAt } pageInfo { hasNextPage endCursor } }
        }
        person(id: $person) { ...entity givenName biography profile { id name bio } }
        profile(id: $profile) { ...entity bio person { id name biography } avatar { ...media } cover { ...media } }
    }
    fragment entity on Entity {
        id name updatedAt owner { displayName }
        newest: media(first: 2) { ...page }
        gallery: media(slot: "photos", orderBy: GALLERY) { ...page }
        unfinished: media(filter: {statuses: [PENDING, UPLOADED, PROCESSING, FAILED]}) { ...page }
        sea: media(filter: {tags: ["sea"]}) { totalCount }
        trash: media(filter: {inTrash: true}) { ...page }
    }
    fragment page on MediaConnection { totalCount pageInfo { hasNextPage endCursor } nodes { ...media } }
    fragment media on Media {
        id title tags status slot isPrimary isPublic sortOrder sha256 width updatedAt deletedAt failure { code }
        owner { displayName } entity { id name } variants { name width sizeBytes }
    }
"""
CONTENT = photograph(8, 8)
ERRORS = "errors { code message }"

T = TypeVar("T")


class InProcess(Account):
    """Without a network, for which a client would take a fifth of a second to be made."""

    def __init__(self, app: Any, token: str | None, user: str) -> None:
        self.token, self.id = token, user
        transport = httpx.ASGITransport(app)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://heirloom.example", headers=self._headers())


@dataclass
class House:
    """`caches` by the names of the applications."""

    services: Services
    dsn: str
    caches: dict[str, ReadCache] = field(default_factory=dict)
    _apps: dict[str, Any] = field(default_factory=dict)

    def open(self, name: str, most_rows: int) -> None:
        self.caches[name] = ReadCache(most_rows)
        self._apps[name] = create_app(replace(self.services, read_cache=self.caches[name]))

    def account(self, app: str, viewer: Viewer | None) -> Account:
        """Nobody's, without a viewer."""
        token = None
        if viewer is not None:
            token, _ = self.services.tokens.access(viewer.id, viewer.session_id, datetime.now(UTC))
        return InProcess(self._apps[app], token, str(viewer.id) if viewer else "")

    async def execute(self, statement: str, *arguments: object) -> None:
        await self.fetch(statement, *arguments)

    async def fetch(self, statement: str, *arguments: object) -> Any:
        return await DB._run_in_pool(statement, arguments)

    def later(self, time: timedelta) -> Services:
        """As the worker of a time to come has them."""
        return replace(self.services, clock=lambda: datetime.now(UTC) + time)

    async def work(self, process: Callable[[Services, Sandboxes, uuid.UUID], Awaitable[T]], media_id: str) -> T:
        """What a worker does."""
        sandbox = Sandbox(Limits(), 1, scratch=self.services.scratch)
        try:
            return await process(self.services, Sandboxes(sandbox, sandbox), uuid.UUID(media_id))
        finally:
            await sandbox.close()

    async def known(self, media_id: str) -> tuple[Known, Known]:
        """The row of a media, and of one of its variants, as the storage's check knows them."""
        (row,) = await Media.select().where(Media.id == uuid.UUID(media_id))
        variant = (await Variant.select().where(Variant.media == row["id"]))[0]
        of_media = Known(row["storage_key"], Source.ORIGINAL, row["id"], row["id"], 1, row["status"], False, False, "")
        return of_media, replace(of_media, key=variant["storage_key"], source=Source.VARIANT, id=variant["id"])


class Tour:
    """One family's person and profile, and who looks at them."""

    def __init__(self, house: House, owner: Viewer, admin: Viewer, stranger: Viewer) -> None:
        self.house = house
        self.readers: dict[str, Viewer | None] = {"owner": owner, "admin": admin, "stranger": stranger, "nobody": None}
        self.person = self.profile = NOBODY
        self.media: dict[str, str] = {}
        self.session: Json = {}

    @classmethod
    async def begin(cls, house: House) -> Tour:
        return cls(house, await somebody(), await somebody(role=UserRole.ADMIN), await somebody())

    def who(self, reader: str, app: str = FIRST) -> Account:
        return self.house.account(app, self.readers[reader])

    async def look(self, reader: str, app: str) -> Json:
        answer = await self.who(reader, app).post(LOOK, person=self.person, profile=self.profile)
        assert "errors" not in answer, answer["errors"]
        data: Json = answer["data"]
        return data

    async def look_around(self) -> dict[str, Json]:
        """What owner and admin see, which is the truth wherever they look."""
        seen = {reader: await self.look(reader, TABLES) for reader in ("owner", "admin")}
        for reader, app in (("owner", FIRST), ("owner", SECOND), ("admin", SECOND)):
            assert await self.look(reader, app) == seen[reader], (reader, app)
        return seen

    async def furnish(self) -> None:
        """A person and a profile with two photographs each, one of which has been processed."""
        owner = self.who("owner")
        self.person = (await owner.person())["id"]
        self.profile = (await owner.profile(self.person, bio="A short one"))["id"]
        for place in (self.person, self.profile):
            for _ in range(2):
                await owner.uploaded(picture(), entityId=place)
        await insert_variants(self.house)


async def insert_variants(house: House) -> None:
    await house.execute("UPDATE media SET status = 'READY' WHERE status = 'UPLOADED'")
    await house.execute(
        "INSERT INTO variant (id, media, name, digest, content_type, width, height, size_bytes, storage_key)"
        " SELECT gen_random_uuid(), id, 'SMALL', 'digest', 'image/webp', 150, 150, 1000, storage_key || '.webp'"
        " FROM media ON CONFLICT DO NOTHING"
    )


def picture() -> bytes:
    """One that nobody has yet."""
    return photograph(8, 8) + secrets.token_bytes(8)


async def changed(account: Account, mutation: str, **variables: Any) -> Any:
    """The payload of a mutation that goes well, as far as it says so."""
    payload = await account.ask(mutation, **variables)
    assert payload["errors"] == []
    assert all(result["errors"] == [] for result in payload.get("results", ()))
    return payload


# ---------------------------------------------------------------- every write


Does: TypeAlias = Callable[[Tour, Account], Awaitable[object]]


def _batch(mutation: str, *names: str) -> Does:
    document = f"mutation($input: MediaIdsInput!) {{ {mutation}(input: $input) {{ results {{ {ERRORS} }} {ERRORS} }} }}"

    async def does(tour: Tour, actor: Account) -> None:
        await changed(actor, document, input={"ids": [tour.media[name] for name in names]})

    return does


def _update(what: str, **fields: Any) -> Does:
    document = f"mutation($input: Update{what}Input!) {{ update{what}(input: $input) {{ {ERRORS} }} }}"

    async def does(tour: Tour, actor: Account) -> None:
        named = {"Person": tour.person, "Profile": tour.profile}.get(what) or tour.media["photo"]
        await changed(actor, document, input={"id": named, **fields})

    return does


def _attach(name: str, place: str, slot: str) -> Does:
    document = f"""mutation($input: AttachMediaInput!) {{
        attachMedia(input: $input) {{ results {{ {ERRORS} }} {ERRORS} }}
    }}"""

    async def does(tour: Tour, actor: Account) -> None:
        given = {"mediaIds": [tour.media[name]], "entityId": getattr(tour, place), "slot": slot}
        await changed(actor, document, input=given)

    return does


def _upload(name: str, **fields: Any) -> Does:
    async def does(tour: Tour, actor: Account) -> None:
        tour.media[name] = (await actor.uploaded(picture(), entityId=tour.person, **fields))["id"]

    return does


async def _upload_batch(tour: Tour, actor: Account) -> None:
    payload = await actor.upload_batch([("a.jpg", picture()), ("b.jpg", picture())], entityId=tour.person)
    assert [result["errors"] for result in payload["results"]] == [[], []]


async def _create_person(tour: Tour, _: Account) -> None:
    tour.person = (await tour.who("owner").person("Grace", biography="Long"))["id"]


async def _create_profile(tour: Tour, actor: Account) -> None:
    tour.profile = (await actor.profile(tour.person, bio="Short"))["id"]


async def _give_avatar(tour: Tour, actor: Account) -> None:
    document = f"mutation($input: UpdateProfileInput!) {{ updateProfile(input: $input) {{ {ERRORS} }} }}"
    variables = {"input": {"id": tour.profile, "avatar": None}}
    payload = await actor.send_files(document, variables, {"input.avatar": ("me.jpg", picture())})
    assert payload["errors"] == []


def _delete(what: str) -> Does:
    document = f"mutation($id: ID!) {{ delete{what}(id: $id) {{ {ERRORS} }} }}"
    return lambda tour, actor: changed(actor, document, id=getattr(tour, what.lower()))


async def _begin(tour: Tour, actor: Account) -> None:
    tour.session = await actor.begun(len(CONTENT), entityId=tour.person)
    tour.media["sent"] = tour.session["media"]["id"]


async def _complete(tour: Tour, actor: Account) -> None:
    headers = {each["name"]: each["value"] for each in tour.session["headers"]}
    stored = await actor.http.put(tour.session["uploadUrl"], content=CONTENT, headers=headers)
    assert stored.status_code == 200
    await actor.completed(tour.session["id"])


async def _abort(tour: Tour, actor: Account) -> None:
    assert (await actor.abort(tour.session["id"]))["errors"] == []


async def _process(tour: Tour, _: Account) -> None:
    assert await tour.house.work(ingest.process, tour.media["sent"])


async def _rerender(tour: Tour, _: Account) -> None:
    media_id = uuid.UUID(tour.media["sent"])
    await tour.house.execute("UPDATE media SET recipe = 'older' WHERE id = $1", media_id)
    await tour.house.execute("UPDATE variant SET digest = 'older' WHERE media = $1", media_id)
    await tour.house.work(renewal.process, tour.media["sent"])


async def _drop_variant(tour: Tour, _: Account) -> None:
    _original, variant = await tour.house.known(tour.media["sent"])
    assert await mending.drop_variant(variant, datetime.now(UTC))


async def _lose(tour: Tour, _: Account) -> None:
    original, _variant = await tour.house.known(tour.media["sent"])
    assert await mending.lose(original, datetime.now(UTC))


async def _find_again(tour: Tour, _: Account) -> None:
    original, _variant = await tour.house.known(tour.media["sent"])
    assert await mending.find_again(original, datetime.now(UTC))


async def _empty_trash(tour: Tour, _: Account) -> None:
    await trash.purge_expired(tour.house.later(timedelta(days=31)))


async def _run_out(tour: Tour, _: Account) -> None:
    await upload_endings.sweep(tour.house.later(timedelta(days=2)))


# Each shows to those who may see it. In the order in which they are done: later ones need what earlier ones made.
TOUR: Final[tuple[tuple[str, Does], ...]] = (
    ("createPerson", _create_person),
    ("updatePerson", _update("Person", name="Grace Hopper")),
    ("updatePerson", _update("Person", biography="Longer")),
    ("createProfile", _create_profile),
    ("updateProfile", _update("Profile", bio="Shorter")),
    ("uploadMedia", _upload("photo", tags=["sea"])),
    ("uploadMedia", _upload("other")),
    ("uploadMediaBatch", _upload_batch),
    ("updateProfile", _give_avatar),
    ("updateProfile", _give_avatar),
    ("createUploadSession", _begin),
    ("completeUpload", _complete),
    ("the worker", _process),
    ("a variant is gone", _drop_variant),
    ("the worker", _process),
    ("rerendering", _rerender),
    ("the file is gone", _lose),
    ("the file is back", _find_again),
    ("the worker", _process),
    ("updateMedia", _update("Media", title="A boat")),
    ("updateMedia", _update("Media", isPrimary=True)),
    ("updateMedia", _update("Media", tags=[], isPublic=True)),
    ("attachMedia", _attach("sent", "profile", "photos")),
    ("reprocessMedia", _batch("reprocessMedia", "sent")),
    ("attachMedia", _attach("sent", "profile", "avatar")),
    ("attachMedia", _attach("sent", "person", "photos")),
    ("attachMedia", _attach("sent", "profile", "cover")),
    ("updateProfile", _update("Profile", cover=None)),
    ("deleteMedia", _batch("deleteMedia", "photo", "other")),
    ("restoreMedia", _batch("restoreMedia", "photo")),
    ("purgeMedia", _batch("purgeMedia", "other")),
    ("deleteMedia", _batch("deleteMedia", "photo")),
    ("the trash runs out", _empty_trash),
    ("createUploadSession", _begin),
    ("abortUpload", _abort),
    ("createUploadSession", _begin),
    ("an upload runs out", _run_out),
    ("deleteProfile", _delete("Profile")),
    ("createProfile", _create_profile),
    ("deletePerson", _delete("Person")),
)
# Of accounts, which nothing that is kept tells of.
ELSEWHERE: Final = frozenset({"register", "login", "refreshSession", "logout"})
