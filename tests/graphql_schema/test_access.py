"""Who may see what, and change it: whatever a stranger asks for by an id of somebody else's is not there."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.client import PASSWORD, UPLOAD, Account, Client, Json
from tests.footprint import fetch, footprint
from tests.graphql_schema.rows import dsn_of, execute
from tests.pictures import photograph
from tests.server import Server, command

SIGN_IN_FIRST = {"code": "UNAUTHENTICATED", "message": "Sign in first.", "path": None}
ERRORS = "errors { code message path }"
PUBLIC_MEDIA = "query($id: String!) { publicMedia(publicId: $id) { id } }"
MEDIA = "query($id: ID!) { media(id: $id) { id } }"
LIBRARY = "query($tags: [String!]) { library(filter: {tags: $tags}) { nodes { id } totalCount } }"
WATCH = "subscription($id: ID!) { mediaProcessing(mediaId: $id) { stage } }"
UPDATE = f'mutation($id: ID!) {{ updateMedia(input: {{id: $id, title: "Mine"}}) {{ media {{ title }} {ERRORS} }} }}'
SET_PUBLIC = (
    "mutation($id: ID!, $public: Boolean!)"
    " { updateMedia(input: {id: $id, isPublic: $public}) { media { isPublic } errors { code } } }"
)


def on_each(name: str) -> str:
    return (
        f"mutation($id: ID!) {{ {name}(input: {{ids: [$id]}})"
        f" {{ results {{ index id media {{ id }} {ERRORS} }} {ERRORS} }} }}"
    )


DELETE, REPROCESS = on_each("deleteMedia"), on_each("reprocessMedia")
RESTORE, PURGE = on_each("restoreMedia"), on_each("purgeMedia")
ATTACH = (
    "mutation($ids: [ID!]!, $entity: ID!) { attachMedia(input: {mediaIds: $ids, entityId: $entity})"
    f" {{ results {{ index id media {{ id }} {ERRORS} }} {ERRORS} }} }}"
)


@dataclass(frozen=True)
class Family:
    """What is Ida's; `trashed` is in the trash."""

    user: str
    person: str
    profile: str
    media: str
    avatar: str
    trashed: str


@pytest.fixture
async def family(ida: Account) -> Family:
    person = await ida.person()
    profile = await ida.profile(person["id"])
    media = await ida.uploaded(photograph(40, 30), entityId=person["id"])
    avatar = await ida.uploaded(photograph(40, 30), entityId=profile["id"], slot="avatar")
    trashed = await ida.uploaded(photograph(40, 30), entityId=person["id"], isPublic=True)
    await ida.ask(DELETE, id=trashed["id"])
    return Family(ida.id, person["id"], profile["id"], media["id"], avatar["id"], trashed["id"])


async def everything(server: Server) -> dict[str, Any]:
    """All that anybody has."""
    tables = ("user_account", "entity", "person", "profile", "media", "variant", "event", "pgqueuer")
    rows = {table: await fetch(server, f"SELECT * FROM {table} ORDER BY 1") for table in tables}
    return {**rows, "footprint": await footprint(server)}


def not_found(what: str, field: str | None = None) -> Json:
    path = ["input", field] if field else None
    return {"code": "NOT_FOUND", "message": f"There is no such {what}.", "path": path}


# ---------------------------------------------------------------- ids of somebody else's

QUERIES = {
    "media": (MEDIA, ("media", "avatar", "trashed", "person", "profile")),
    "person": ("query($id: ID!) { person(id: $id) { id } }", ("person", "profile", "media")),
    "profile": ("query($id: ID!) { profile(id: $id) { id } }", ("profile", "person", "media")),
    "node": ("query($id: ID!) { node(id: $id) { id } }", ("user", "person", "profile", "media", "avatar", "trashed")),
}


def _payload(field: str, what: str, given: str, at: str | None = None) -> tuple[str, Callable[[str, Json], Json]]:
    """A mutation of one thing, and its payload with an error."""
    name = given.partition("(")[0]
    query = f"mutation($id: ID!) {{ {given} {{ {field} {ERRORS} }} }}"
    return query, lambda _id, error: {
        name: {field.split(maxsplit=1)[0]: None, "errors": [error or not_found(what, at)]}
    }


def _batch(name: str) -> tuple[str, Callable[[str, Json], Json]]:
    def answer(given: str, error: Json) -> Json:
        if error:
            return {name: {"results": [], "errors": [error]}}
        result = {"index": 0, "id": given, "media": None, "errors": [not_found("media")]}
        return {name: {"results": [result], "errors": []}}

    return on_each(name), answer


PEOPLE, PROFILES, PICTURES = (
    ("person", "profile", "media"),
    ("profile", "person", "media"),
    ("media", "avatar", "trashed", "person"),
)
MUTATIONS = {
    "updatePerson": (
        *_payload("person { id }", "person", 'updatePerson(input: {id: $id, name: "Mine", biography: "Mine"})'),
        PEOPLE,
    ),
    "deletePerson": (*_payload("deletedId", "person", "deletePerson(id: $id)"), PEOPLE),
    "createProfile": (
        *_payload("profile { id }", "person", "createProfile(input: {personId: $id})", "personId"),
        PEOPLE,
    ),
    "updateProfile": (
        *_payload("profile { id }", "profile", 'updateProfile(input: {id: $id, bio: "Mine", avatar: null})'),
        PROFILES,
    ),
    "deleteProfile": (*_payload("deletedId", "profile", "deleteProfile(id: $id)"), PROFILES),
    "updateMedia": (*_payload("media { id }", "media", 'updateMedia(input: {id: $id, title: "Mine"})'), PICTURES),
    "deleteMedia": (*_batch("deleteMedia"), PICTURES),
    "reprocessMedia": (*_batch("reprocessMedia"), PICTURES),
    "restoreMedia": (*_batch("restoreMedia"), PICTURES),
    "purgeMedia": (*_batch("purgeMedia"), PICTURES),
}


def ids(family: Family, kinds: tuple[str, ...]) -> list[str]:
    """Hers, and those that nobody has: all are to be answered alike."""
    return [*(getattr(family, kind) for kind in kinds), str(uuid.uuid4()), str(uuid.UUID(int=0)), "17", "", "\x00", "é"]


@pytest.mark.parametrize("field", QUERIES)
async def test_a_stranger_sees_nothing(unattended: Server, family: Family, bob: Account, field: str) -> None:
    query, kinds = QUERIES[field]
    async with Client(unattended.url) as nobody:
        for who in (bob, nobody):
            answers = [await who.post(query, id=given) for given in ids(family, kinds)]
            assert answers == [{"data": {field: None}}] * len(answers)


@pytest.mark.parametrize("field", MUTATIONS)
async def test_a_stranger_changes_nothing(unattended: Server, family: Family, bob: Account, field: str) -> None:
    query, answer, kinds = MUTATIONS[field]
    before = await everything(unattended)
    async with Client(unattended.url) as nobody:
        for given in ids(family, kinds):
            assert await bob.post(query, id=given) == {"data": answer(given, {})}
            assert await nobody.post(query, id=given) == {"data": answer(given, SIGN_IN_FIRST)}
    assert await everything(unattended) == before


CREATE_PROFILE = (
    f"mutation($input: CreateProfileInput!) {{ createProfile(input: $input) {{ profile {{ id }} {ERRORS} }} }}"
)
UPDATE_PROFILE = (
    f"mutation($input: UpdateProfileInput!) {{ updateProfile(input: $input) {{ profile {{ id }} {ERRORS} }} }}"
)
FILES: dict[str, tuple[str, str, str, str, str, tuple[str, ...]]] = {
    "uploadMedia": (UPLOAD, "entityId", "file", "media", "entity", ("person", "profile", "media")),
    "createProfile": (CREATE_PROFILE, "personId", "avatar", "profile", "person", PEOPLE),
    "updateProfile": (UPDATE_PROFILE, "id", "cover", "profile", "profile", PROFILES),
}


@pytest.mark.parametrize("field", FILES)
async def test_a_stranger_places_nothing(unattended: Server, family: Family, bob: Account, field: str) -> None:
    query, key, file, made, what, kinds = FILES[field]
    before = await everything(unattended)
    async with Client(unattended.url) as nobody:
        for given in ids(family, kinds):
            for who, error in ((bob, not_found(what, None if key == "id" else key)), (nobody, SIGN_IN_FIRST)):
                files = {f"input.{file}": ("mine.jpg", photograph(20, 20))}
                answer = await who.send_files(query, {"input": {key: given, file: None}}, files)
                extra = {"duplicateOf": None} if field == "uploadMedia" else {}
                assert answer == {made: None, **extra, "errors": [error]}
    assert await everything(unattended) == before


async def test_a_stranger_places_nothing_by_the_batch(unattended: Server, family: Family, bob: Account) -> None:
    before = await everything(unattended)
    files = [("mine.jpg", photograph(20, 20)), ("his.jpg", photograph(20, 20))]
    async with Client(unattended.url) as nobody:
        for given in ids(family, ("person", "profile")):
            results = [
                {"index": index, "id": None, "media": None, "errors": [not_found("entity", "entityId")]}
                for index in range(2)
            ]
            assert await bob.upload_batch(files, entityId=given) == {"results": results, "errors": []}
            assert await nobody.upload_batch(files, entityId=given) == {"results": [], "errors": [SIGN_IN_FIRST]}
    assert await everything(unattended) == before


async def test_a_stranger_attaches_nothing(unattended: Server, family: Family, bob: Account) -> None:
    """Neither what is hers to something of theirs, nor theirs to what is hers."""
    mine, person = await bob.uploaded(photograph(20, 20)), await bob.person()
    before = await everything(unattended)
    refused = {"results": [], "errors": [SIGN_IN_FIRST]}
    async with Client(unattended.url) as nobody:
        for given in ids(family, PICTURES):
            error = {**not_found("media"), "path": ["input", "mediaIds", "0"]}
            result = {"index": 0, "id": given, "media": None, "errors": [error]}
            assert await bob.ask(ATTACH, ids=[given], entity=person["id"]) == {"results": [result], "errors": []}
            assert await nobody.ask(ATTACH, ids=[given], entity=person["id"]) == refused
        for given in ids(family, PEOPLE):
            nowhere = {"results": [], "errors": [not_found("entity", "entityId")]}
            assert await bob.ask(ATTACH, ids=[mine["id"]], entity=given) == nowhere
            assert await bob.ask(ATTACH, ids=[family.media], entity=given) == nowhere
            assert await nobody.ask(ATTACH, ids=[mine["id"]], entity=given) == refused
    assert await everything(unattended) == before


async def test_a_stranger_watches_nothing(unattended: Server, family: Family, bob: Account) -> None:
    before = await everything(unattended)
    async with Client(unattended.url) as nobody:
        for who in (bob, nobody):
            async with who.socket() as socket:
                for given in ids(family, ("media", "avatar", "person")):
                    assert await refused_watching(socket, given) == ("There is no such media.", {"code": "NOT_FOUND"})
    assert await everything(unattended) == before


async def refused_watching(socket: Any, media: str) -> tuple[str, Json]:
    operation = await socket.start(WATCH, id=media)
    message = await socket.receive()
    assert (message["type"], message["id"], message["payload"]["data"]) == ("next", operation, None)
    (error,) = message["payload"]["errors"]
    assert await socket.receive() == {"type": "complete", "id": operation}
    return error["message"], error["extensions"]


async def test_what_is_hers_is_not_in_a_strangers_lists(unattended: Server, family: Family, bob: Account) -> None:
    query = """{ library(first: 100) { nodes { owner { id } } }
        viewer { people { nodes { id } } profiles { nodes { id } } storage { mediaCount } } }"""
    answer = await bob.ask(query)
    assert family.user not in {media["owner"]["id"] for media in answer["library"]["nodes"]}
    nothing = {"people": {"nodes": []}, "profiles": {"nodes": []}, "storage": {"mediaCount": 0}}
    assert answer["viewer"] == nothing


# ---------------------------------------------------------------- what is public


@pytest.fixture
async def public(unattended: Server, ida: Account) -> Json:
    """A public picture of a person of Ida's, with a tag that nobody else has."""
    person = await ida.person()
    tag = secrets.token_hex(8)
    return await ida.uploaded(photograph(40, 30), entityId=person["id"], isPublic=True, tags=[tag])


async def seen(who: Client, public: Json) -> list[Any]:
    """What they get of it in every way there is."""
    library = await who.ask(LIBRARY, tags=public["tags"])
    return [
        await who.ask(PUBLIC_MEDIA, id=public["publicId"]),
        await who.ask(MEDIA, id=public["id"]),
        await who.ask("query($id: ID!) { node(id: $id) { id } }", id=public["id"]),
        *library["nodes"],
        library["totalCount"],
    ]


async def test_public_media_is_everybodys_as_long_as_it_is_public(
    unattended: Server, ida: Account, bob: Account, public: Json
) -> None:
    it = {"id": public["id"]}
    async with Client(unattended.url) as nobody:
        for who in (nobody, bob, ida):
            assert await seen(who, public) == [it, it, it, it, 1]

        changed = await ida.ask(SET_PUBLIC, id=public["id"], public=False)
        assert changed == {"media": {"isPublic": False}, "errors": []}
        for who in (nobody, bob):
            assert await seen(who, public) == [None, None, None, 0]
        assert await seen(ida, public) == [None, it, it, it, 1]

        await ida.ask(SET_PUBLIC, id=public["id"], public=True)
        assert await seen(nobody, public) == [it, it, it, it, 1]
        assert (await ida.ask(DELETE, id=public["id"]))["results"][0]["errors"] == []
        for who in (nobody, bob):
            assert await seen(who, public) == [None, None, None, 0]
        # Its owner finds it in the trash.
        assert await seen(ida, public) == [None, it, it, 0]
        for who, found in ((nobody, []), (bob, []), (ida, [it])):
            trash = "query($tags: [String!]) { library(filter: {tags: $tags, inTrash: true}) { nodes { id } } }"
            assert await who.ask(trash, tags=public["tags"]) == {"nodes": found}


async def test_what_is_no_public_id_is_nothing(unattended: Server, family: Family, bob: Account) -> None:
    async with Client(unattended.url) as nobody:
        for who in (nobody, bob):
            for given in (*ids(family, ("media", "person")), "MED-0", "\x00MED", "a" * 10_000):
                assert await who.post(PUBLIC_MEDIA, id=given) == {"data": {"publicMedia": None}}


LOST = "lost_at = now(), status = 'FAILED', failure_code = 'STORAGE', failure_message = 'Gone.'"


@pytest.mark.parametrize("change", ["status = 'PENDING'", LOST], ids=["pending", "lost"])
async def test_what_has_no_bytes_is_not_public(
    unattended: Server, ida: Account, bob: Account, public: Json, change: str
) -> None:
    await execute(dsn_of(unattended), f"UPDATE media SET {change} WHERE id = $1", uuid.UUID(public["id"]))
    statuses = (
        "query($tags: [String!]) { library(filter: {tags: $tags, statuses: [PENDING, FAILED]}) { nodes { id } } }"
    )
    async with Client(unattended.url) as nobody:
        for who in (nobody, bob):
            assert await seen(who, public) == [None, None, None, 0]
            assert await who.ask(statuses, tags=public["tags"]) == {"nodes": []}
    # Its owner finds it by its id, and in lists when asked for.
    it = {"id": public["id"]}
    assert await seen(ida, public) == [None, it, it, 0]
    assert await ida.ask(statuses, tags=public["tags"]) == {"nodes": [it]}


@pytest.mark.parametrize("moderation", ["PENDING", "REJECTED"])
async def test_what_is_not_approved_is_not_public(
    unattended: Server, ida: Account, bob: Account, public: Json, moderation: str
) -> None:
    change = "UPDATE media SET moderation = $1 WHERE id = $2"
    await execute(dsn_of(unattended), change, moderation, uuid.UUID(public["id"]))
    async with Client(unattended.url) as nobody:
        for who in (nobody, bob):
            assert await seen(who, public) == [None, None, None, 0]
    it = {"id": public["id"]}
    assert await seen(ida, public) == [None, it, it, it, 1]


async def test_public_media_tells_strangers_whose_it_is_and_not_of_whom(
    unattended: Server, ida: Account, bob: Account, public: Json
) -> None:
    query = "query($id: ID!) { media(id: $id) { entity { id name } owner { id displayName role } url isPublic } }"
    owner = {"id": ida.id, "displayName": "Ida", "role": "USER"}
    hers = await ida.ask(query, id=public["id"])
    assert hers["entity"] == {"id": public["entity"]["id"], "name": "Grace Hopper"}
    async with Client(unattended.url) as nobody:
        for who in (nobody, bob):
            assert await who.ask(query, id=public["id"]) == {**hers, "entity": None, "owner": owner}
            assert (await who.http.get(hers["url"])).status_code == 200


async def test_who_sees_public_media_may_not_change_it(
    unattended: Server, ida: Account, bob: Account, public: Json
) -> None:
    before = await everything(unattended)
    forbidden = {"code": "FORBIDDEN", "message": "You may not change this media.", "path": None}
    refused = {"results": [{"index": 0, "id": public["id"], "media": None, "errors": [forbidden]}], "errors": []}
    assert await bob.ask(UPDATE, id=public["id"]) == {"media": None, "errors": [forbidden]}
    assert await bob.ask(DELETE, id=public["id"]) == refused
    for change in (REPROCESS, RESTORE, PURGE):
        assert await bob.ask(change, id=public["id"]) == refused
    async with Client(unattended.url) as nobody:
        assert await nobody.ask(UPDATE, id=public["id"]) == {"media": None, "errors": [SIGN_IN_FIRST]}
        for change in (DELETE, REPROCESS, RESTORE, PURGE):
            assert await nobody.ask(change, id=public["id"]) == {"results": [], "errors": [SIGN_IN_FIRST]}
    assert await everything(unattended) == before


async def test_who_sees_public_media_may_watch_it_until_it_is_none(
    unattended: Server, ida: Account, public: Json
) -> None:
    async with Client(unattended.url) as nobody, nobody.socket() as socket:
        operation = await socket.start(WATCH, id=public["id"])
        now = {"data": {"mediaProcessing": {"stage": "QUEUED"}}}
        assert await socket.receive() == {"type": "next", "id": operation, "payload": now}
        await ida.ask(SET_PUBLIC, id=public["id"], public=False)
        # The next that happens to it is not for strangers.
        await execute(
            dsn_of(unattended),
            """WITH told AS (
                INSERT INTO event (kind, media, data, occurred_at)
                VALUES ('PROCESSING', $1, '{"status": "PROCESSING", "stage": "FETCHING", "percent": 5}', now())
                RETURNING id
            ) SELECT pg_notify('heirloom_event', '') FROM told""",
            uuid.UUID(public["id"]),
        )
        message = await socket.receive()
        assert message["type"] == "next"
        assert message["payload"]["errors"][0]["extensions"] == {"code": "NOT_FOUND"}
        assert message["payload"]["data"] is None


# ---------------------------------------------------------------- admins, and who owns the entity


async def run(server: Server, *arguments: str, stdin: str) -> subprocess.CompletedProcess[str]:
    def wait() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments),
            env=server.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return await asyncio.to_thread(wait)


LOGIN = "mutation($input: LoginInput!) { login(input: $input) { accessToken refreshToken user { id role } } }"


@pytest.fixture(scope="module")
async def admin(unattended: Server) -> AsyncIterator[Account]:
    email = f"root-{secrets.token_hex(6)}@example.org"
    made = await run(unattended, "create-admin", email, "--name", "Root", "--password-stdin", stdin=f"{PASSWORD}\n")
    assert (made.returncode, made.stdout) == (0, ""), made.stderr
    async with Client(unattended.url) as nobody:
        signed_in = await nobody.ask(LOGIN, input={"email": email, "password": PASSWORD})
    async with Account(unattended.url, signed_in, email) as account:
        yield account


async def test_an_admin_is_made_on_the_command_line(unattended: Server, admin: Account) -> None:
    query = "{ viewer { user { id displayName role } } }"
    assert await admin.ask(query) == {"user": {"id": admin.id, "displayName": "Root", "role": "ADMIN"}}


@pytest.mark.parametrize(
    ("email", "password", "message"),
    [
        ("admin", PASSWORD, "heirloom: This is no e-mail address.\n"),
        ("short@example.org", "short", "heirloom: A password has 10 to 200 characters.\n"),
        (None, PASSWORD, "heirloom: There is an account with this e-mail.\n"),
    ],
)
async def test_what_makes_no_admin_is_told(
    unattended: Server, admin: Account, email: str | None, password: str, message: str
) -> None:
    before = await everything(unattended)
    refused = await run(unattended, "create-admin", email or admin.email, "--password-stdin", stdin=f"{password}\n")
    assert (refused.returncode, refused.stdout, refused.stderr) == (2, "", message)
    assert await everything(unattended) == before


async def test_an_admin_may_do_everything(unattended: Server, admin: Account, ida: Account, family: Family) -> None:
    for field, (query, kinds) in QUERIES.items():
        kind = kinds[0]
        assert await admin.post(query, id=getattr(family, kind)) == {"data": {field: {"id": getattr(family, kind)}}}
    library = await admin.ask("{ library(first: 100) { nodes { id } } }")
    assert {"id": family.media} in library["nodes"]

    for query, what in (
        (MUTATIONS["updatePerson"][0], family.person),
        (MUTATIONS["updateProfile"][0], family.profile),
        (UPDATE, family.media),
    ):
        assert (await admin.ask(query, id=what))["errors"] == []
    assert (await admin.uploaded(photograph(20, 20), entityId=family.person))["owner"] == {"id": admin.id}
    done = {"index": 0, "id": family.media, "media": {"id": family.media}, "errors": []}
    attached = await admin.ask(ATTACH, ids=[family.media], entity=family.profile)
    assert attached == {"results": [done], "errors": []}
    for change, media in ((DELETE, done["media"]), (RESTORE, done["media"]), (DELETE, done["media"]), (PURGE, None)):
        assert (await admin.ask(change, id=family.media))["results"] == [{**done, "media": media}]
    for query, what in ((MUTATIONS["deleteProfile"][0], family.profile), (MUTATIONS["deletePerson"][0], family.person)):
        assert await admin.ask(query, id=what) == {"deletedId": what, "errors": []}
    assert await ida.ask("{ viewer { people { nodes { id } } profiles { nodes { id } } } }") == {
        "people": {"nodes": []},
        "profiles": {"nodes": []},
    }


async def test_who_owns_the_entity_may_change_what_others_placed_there(
    admin: Account, ida: Account, family: Family
) -> None:
    placed = await admin.uploaded(photograph(20, 20), entityId=family.person)
    assert await ida.ask(UPDATE, id=placed["id"]) == {"media": {"title": "Mine"}, "errors": []}
    result = {"index": 0, "id": placed["id"], "media": {"id": placed["id"]}, "errors": []}
    for change in (DELETE, RESTORE):
        assert await ida.ask(change, id=placed["id"]) == {"results": [result], "errors": []}
    assert await ida.ask(ATTACH, ids=[placed["id"]], entity=family.profile) == {"results": [result], "errors": []}
    assert await ida.ask(DELETE, id=placed["id"]) == {"results": [result], "errors": []}
    assert await ida.ask(PURGE, id=placed["id"]) == {"results": [{**result, "media": None}], "errors": []}
