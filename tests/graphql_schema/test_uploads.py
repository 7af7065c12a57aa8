"""Files that are taken in: what is answered, and what is stored."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.client import Account, Json
from tests.footprint import Footprint, fetch, footprint
from tests.pictures import photograph, tiny_heic, tiny_mp3, tiny_mp4, tiny_pdf
from tests.processing.pdffiles import encrypted
from tests.server import Server

UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
ANY_UUID = UUID.replace("-7", "-[0-9a-f]", 1)
FORMATS = {
    "JPEG": ("image/jpeg", "jpg"),
    "PNG": ("image/png", "png"),
    "GIF": ("image/gif", "gif"),
    "WEBP": ("image/webp", "webp"),
    "AVIF": ("image/avif", "avif"),
    "TIFF": ("image/tiff", "tiff"),
    "BMP": ("image/bmp", "bmp"),
}
DAMAGED = {"code": "CORRUPT", "message": "The file is damaged or incomplete."}
LOCKED = {"code": "UNSUPPORTED", "message": "The document is encrypted: it can't be read without its password."}
# Content, kind, content type; and why it can't be read, or what is found.
OTHERS: dict[str, tuple[Callable[[], bytes], str, str, Json]] = {
    "mp4": (tiny_mp4, "VIDEO", "video/mp4", DAMAGED),
    "heic": (tiny_heic, "IMAGE", "image/heic", DAMAGED),
    "locked.pdf": (lambda: encrypted(b"secret"), "DOCUMENT", "application/pdf", LOCKED),
    "pdf": (tiny_pdf, "DOCUMENT", "application/pdf", {"pageCount": 1, "duration": None}),
    "mp3": (tiny_mp3, "AUDIO", "audio/mpeg", {"pageCount": None, "duration": 0.052}),
}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def told(media: Json) -> Json:
    """A media without what differs at each upload, after a look at that."""
    rest = dict(media)
    assert re.fullmatch(UUID, rest.pop("id"))
    assert re.fullmatch(r"MED-[0-9A-HJKMNP-TV-Z]{12}", rest.pop("publicId"))
    created, updated = rest.pop("createdAt"), rest.pop("updatedAt")
    assert created == updated
    age = datetime.now(UTC) - datetime.fromisoformat(created)
    assert timedelta(0) <= age < timedelta(minutes=1)
    assert rest.pop("url").startswith("http://127.0.0.1:")
    assert datetime.fromisoformat(rest.pop("urlExpiresAt")) > datetime.now(UTC)
    return rest


def just_uploaded(owner: Account, content: bytes, filename: str, content_type: str, **fields: Any) -> Json:
    """What `told` leaves of a media that nobody has processed yet."""
    return {
        "kind": "IMAGE",
        "status": "UPLOADED",
        "failure": None,
        "filename": filename,
        "contentType": content_type,
        "sizeBytes": len(content),
        "width": None,
        "height": None,
        "sha256": sha256(content),
        "title": None,
        "description": None,
        "altText": None,
        "tags": [],
        "takenAt": None,
        "location": None,
        "exif": None,
        "sortOrder": 0,
        "isPrimary": False,
        "isPublic": False,
        "entity": None,
        "slot": None,
        "owner": {"id": owner.id},
        "deletedAt": None,
        "variants": [],
        **fields,
    }


def added(before: Footprint, after: Footprint) -> list[str]:
    """The objects that came, where exactly so many rows, events and jobs came too, and nothing went."""
    objects = sorted(after.objects - before.objects)
    number = len(objects)
    counts = {"media": before.media + number, "events": before.events + number, "jobs": before.jobs + number}
    assert after == replace(before, **counts, objects=before.objects | {*objects}, scratch=frozenset())
    return objects


# ---------------------------------------------------------------- what is answered and stored


@pytest.mark.parametrize("format_name", FORMATS)
async def test_a_picture_is_known_by_its_bytes(unattended: Server, ida: Account, format_name: str) -> None:
    content_type, extension = FORMATS[format_name]
    content = photograph(64, 48, format=format_name)
    before = await footprint(unattended)
    payload = await ida.upload(content, "a holiday.docx")
    (key,) = added(before, await footprint(unattended))

    assert told(payload.pop("media")) == just_uploaded(ida, content, "a holiday.docx", content_type)
    assert payload == {"duplicateOf": None, "errors": []}
    assert re.fullmatch(rf"image/{ida.id}/\d{{13}}-{ANY_UUID}\.{extension}", key)
    assert (unattended.data_dir / "files" / key).read_bytes() == content


async def test_what_belongs_to_a_person_is_stored_by_the_template(unattended: Server, ida: Account) -> None:
    person = await ida.person()
    content = photograph(64, 48)
    earliest = datetime.now(UTC).replace(microsecond=0)
    before = await footprint(unattended)
    media = await ida.uploaded(content, entityId=person["id"])
    (key,) = added(before, await footprint(unattended))

    assert told(media) == just_uploaded(
        ida, content, "photo.jpg", "image/jpeg", entity={"id": person["id"]}, slot="photos"
    )
    match = re.fullmatch(rf"person/image/{person['id']}/(\d{{4}}-\d\d)/photos-(\d{{14}})-[0-9a-f]{{16}}\.jpg", key)
    assert match is not None
    stored_at = datetime.strptime(match[2], "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    assert earliest <= stored_at <= datetime.now(UTC)
    assert match[1] == f"{stored_at:%Y-%m}"
    assert (unattended.data_dir / "files" / key).read_bytes() == content


async def test_a_slot_that_is_named(unattended: Server, ida: Account) -> None:
    person = await ida.person()
    before = await footprint(unattended)
    media = await ida.uploaded(tiny_pdf(), "will.pdf", entityId=person["id"], slot="documents")
    (key,) = added(before, await footprint(unattended))
    assert told(media) == just_uploaded(
        ida,
        tiny_pdf(),
        "will.pdf",
        "application/pdf",
        kind="DOCUMENT",
        entity={"id": person["id"]},
        slot="documents",
    )
    assert key.startswith(f"person/document/{person['id']}/")
    assert re.search(r"/documents-\d{14}-[0-9a-f]{16}\.pdf$", key)


async def test_what_is_said_of_a_file_is_kept(ida: Account) -> None:
    content = photograph(64, 48)
    words: Json = {
        "title": "  At the\tsea ",
        "description": "Two lines\nof text",
        "altText": "Three children on a pier",
        "tags": ["sea", "  Summer 1962 ", "SEA"],
        "isPublic": True,
    }
    kept = {**words, "title": "At the sea", "tags": ["sea", "Summer 1962"]}
    media = await ida.uploaded(content, **words)
    assert told(media) == just_uploaded(ida, content, "photo.jpg", "image/jpeg", **kept)

    read = await ida.ask(
        "query($id: ID!) { media(id: $id) { title description altText tags isPublic } }", id=media["id"]
    )
    assert read == kept


@pytest.mark.parametrize(
    ("claimed", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\fakepath\\café.jpg", "café.jpg"),
        ("祖母 👵🏽.jpg", "祖母 👵🏽.jpg"),
        ("photo\u202egpj.exe", "photogpj.exe"),
        ("..", "unnamed"),
        (f"{'é' * 300}.jpg", "é" * 255),
    ],
    ids=["path", "windows", "unicode", "direction", "dots", "long"],
)
async def test_a_file_name_is_cleaned(unattended: Server, ida: Account, claimed: str, kept: str) -> None:
    before = await footprint(unattended)
    media = await ida.uploaded(photograph(64, 48), claimed)
    (key,) = added(before, await footprint(unattended))
    assert media["filename"] == kept
    assert re.fullmatch(rf"image/{ida.id}/\d{{13}}-{ANY_UUID}\.jpg", key)


async def test_a_batch_with_a_bad_file_in_its_middle(unattended: Server, ida: Account) -> None:
    person = await ida.person()
    first, last = photograph(64, 48), photograph(64, 48, format="PNG")
    before = await footprint(unattended)
    payload = await ida.upload_batch(
        [("1.jpg", first), ("2.jpg", b"no picture at all"), ("3.jpg", last)],
        entityId=person["id"],
        tags=["reunion"],
        isPublic=True,
    )
    keys = added(before, await footprint(unattended))

    common = {"entity": {"id": person["id"]}, "slot": "photos", "tags": ["reunion"], "isPublic": True}
    one, two, three = payload["results"]
    assert payload["errors"] == []
    assert two == {
        "index": 1,
        "id": None,
        "media": None,
        "errors": [
            {
                "code": "UNSUPPORTED_TYPE",
                "message": "These bytes are no picture, film, recording or document that is known here.",
                "path": ["input", "files", "1"],
            }
        ],
    }
    for index, result, content, filename, content_type in (
        (0, one, first, "1.jpg", "image/jpeg"),
        (2, three, last, "3.jpg", "image/png"),
    ):
        assert (result["index"], result["id"], result["errors"]) == (index, result["media"]["id"], [])
        assert told(result["media"]) == just_uploaded(ida, content, filename, content_type, **common)
    assert {Path(key).suffix for key in keys} == {".jpg", ".png"}


async def test_the_same_file_twice_in_a_batch_is_stored_once(unattended: Server, ida: Account) -> None:
    content = photograph(64, 48)
    before = await footprint(unattended)
    payload = await ida.upload_batch([("1.jpg", content), ("2.jpg", content)])
    added(before, await footprint(unattended))
    one, two = payload["results"]
    assert told(one["media"]) == just_uploaded(ida, content, "1.jpg", "image/jpeg")
    assert two == {**one, "index": 1}


async def test_one_part_may_serve_two_variables(unattended: Server, ida: Account) -> None:
    """The multipart request spec's own case: both places see the same file."""
    content = photograph(64, 48)
    before = await footprint(unattended)
    response = await ida.http.post(
        "/graphql",
        data={
            "operations": '{"query": "mutation($a: UploadMediaInput!, $b: UploadMediaInput!) '
            "{ a: uploadMedia(input: $a) { media { id } errors { code } } "
            'b: uploadMedia(input: $b) { duplicateOf { id } errors { code } } }",'
            ' "variables": {"a": {"file": null}, "b": {"file": null}}}',
            "map": '{"0": ["variables.a.file", "variables.b.file"]}',
        },
        files={"0": ("a.jpg", content)},
        headers={"apollo-require-preflight": "true"},
    )
    added(before, await footprint(unattended))
    data = response.json()["data"]
    assert data["a"]["media"] is not None
    assert data == {
        "a": {"media": data["a"]["media"], "errors": []},
        "b": {"duplicateOf": data["a"]["media"], "errors": []},
    }


# ---------------------------------------------------------------- what processing makes of it


async def test_each_format_becomes_ready(ada: Account) -> None:
    contents = {name: photograph(64, 48, format=name) for name in FORMATS}
    payload = await ada.upload_batch([(f"{name}.bin", content) for name, content in contents.items()])
    for result, (name, content) in zip(payload["results"], contents.items(), strict=True):
        media = await ada.settled(result["id"])
        assert (name, media["status"], media["failure"], media["width"], media["height"]) == (
            name,
            "READY",
            None,
            64,
            48,
        )
        assert [(variant["name"], variant["width"], variant["height"]) for variant in media["variants"]] == [
            ("THUMBNAIL", 48, 48),
            ("SMALL", 64, 48),
            ("MEDIUM", 64, 48),
            ("LARGE", 64, 48),
        ]
        assert (await ada.http.get(media["url"])).content == content


@pytest.mark.parametrize("name", [name for name, (*_, found) in OTHERS.items() if "code" in found])
async def test_what_cannot_be_read_says_why_and_stays_downloadable(ada: Account, name: str) -> None:
    make, kind, content_type, failure = OTHERS[name]
    content = make()
    media = await ada.uploaded(content, f"file.{name}")
    assert told(media) == just_uploaded(ada, content, f"file.{name}", content_type, kind=kind)
    failed = await ada.settled(media["id"])
    assert failed == {
        **media,
        "status": "FAILED",
        "failure": failure,
        "updatedAt": failed["updatedAt"],
        "url": failed["url"],
        "urlExpiresAt": failed["urlExpiresAt"],
    }
    await assert_downloadable(ada, failed, content)


async def test_a_document_is_seen_by_its_first_page_and_a_recording_by_nothing(ada: Account) -> None:
    for name, shown in (("pdf", ["THUMBNAIL", "SMALL", "MEDIUM", "LARGE"]), ("mp3", [])):
        make, kind, content_type, found = OTHERS[name]
        content = make()
        media = await ada.uploaded(content, f"file.{name}")
        assert told(media) == just_uploaded(ada, content, f"file.{name}", content_type, kind=kind)
        ready = await ada.settled(media["id"])
        assert (ready["status"], ready["failure"]) == ("READY", None)
        facts = "query($id: ID!) { media(id: $id) { pageCount duration } }"
        assert await ada.ask(facts, id=media["id"]) == found
        assert [variant["name"] for variant in ready["variants"]] == shown
        assert (ready["width"], ready["height"], ready["takenAt"]) == (None, None, None)
        await assert_downloadable(ada, ready, content)


async def test_a_truncated_picture_is_corrupt_and_stays_downloadable(ada: Account) -> None:
    whole = photograph(640, 480)
    content = whole[: len(whole) // 2]
    media = await ada.uploaded(content)
    failed = await ada.settled(media["id"])
    assert (failed["status"], failed["variants"]) == ("FAILED", [])
    assert failed["failure"] == {"code": "CORRUPT", "message": "The file is damaged or incomplete."}
    await assert_downloadable(ada, failed, content)


async def assert_downloadable(account: Account, media: Json, content: bytes) -> None:
    answer = await account.http.get(media["url"])
    assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, media["contentType"], content)


# ---------------------------------------------------------------- duplicates


async def test_bytes_that_are_there_are_not_stored_again(unattended: Server, ida: Account) -> None:
    person = await ida.person()
    content = photograph(64, 48)
    media = await ida.uploaded(content, "first.jpg", title="First")
    before = await footprint(unattended)
    again = await ida.upload(content, "second.jpg", title="Second", entityId=person["id"], tags=["other"])
    assert again == {"media": media | signed(again["media"]), "duplicateOf": {"id": media["id"]}, "errors": []}
    assert await footprint(unattended) == before


async def test_bytes_in_the_trash_are_still_there(unattended: Server, ida: Account) -> None:
    content = photograph(64, 48)
    media = await ida.uploaded(content)
    payload = await ida.ask(
        "mutation($input: MediaIdsInput!) { deleteMedia(input: $input) { results { media { id } } } }",
        input={"ids": [media["id"]]},
    )
    assert payload == {"results": [{"media": {"id": media["id"]}}]}
    before = await footprint(unattended)
    again = await ida.upload(content)
    assert (again["duplicateOf"], again["errors"]) == ({"id": media["id"]}, [])
    assert again["media"]["deletedAt"] is not None
    assert again["media"] == media | signed(again["media"]) | {
        "deletedAt": again["media"]["deletedAt"],
        "updatedAt": again["media"]["updatedAt"],
    }
    assert await footprint(unattended) == before


async def test_what_another_has_is_no_duplicate(unattended: Server, ida: Account, bob: Account) -> None:
    content = photograph(64, 48)
    before = await footprint(unattended)
    idas = await ida.upload(content)
    bobs = await bob.upload(content)
    assert len(added(before, await footprint(unattended))) == 2
    assert (idas["duplicateOf"], bobs["duplicateOf"]) == (None, None)
    assert idas["media"]["id"] != bobs["media"]["id"]
    assert told(bobs["media"]) == just_uploaded(bob, content, "photo.jpg", "image/jpeg")


async def test_a_picture_of_the_library_may_become_an_avatar(unattended: Server, ida: Account) -> None:
    content = photograph(64, 48)
    before = await footprint(unattended)
    in_library = await ida.uploaded(content)
    profile = await ida.profile((await ida.person())["id"])
    avatar = await ida.upload(content, entityId=profile["id"], slot="avatar")
    assert (avatar["duplicateOf"], avatar["errors"]) == (None, [])
    assert avatar["media"]["id"] != in_library["id"]
    # And the other way: an avatar's bytes are no duplicate for the library.
    other = photograph(64, 48)
    await ida.uploaded(other, entityId=profile["id"], slot="cover")
    assert (await ida.upload(other))["duplicateOf"] is None
    assert len(added(before, await footprint(unattended))) == 4


async def test_ten_uploads_of_one_file_at_once_make_one_media(unattended: Server, ida: Account) -> None:
    content = photograph(64, 48)
    before = await footprint(unattended)
    payloads = await asyncio.gather(*(ida.upload(content) for _ in range(10)))
    added(before, await footprint(unattended))
    (media_id,) = {payload["media"]["id"] for payload in payloads}
    assert [payload["errors"] for payload in payloads] == [[]] * 10
    duplicates = [payload["duplicateOf"] for payload in payloads]
    assert (duplicates.count(None), duplicates.count({"id": media_id})) == (1, 9)


def signed(media: Json) -> Json:
    """The fields of a media that change with the time of asking."""
    return {"url": media["url"], "urlExpiresAt": media["urlExpiresAt"]}


# ---------------------------------------------------------------- idempotency


async def test_a_key_repeated_gives_the_same_media(unattended: Server, ida: Account) -> None:
    content = photograph(64, 48)
    before = await footprint(unattended)
    first = await ida.upload(content, idempotencyKey="a  key", title="First")
    again = await ida.upload(content, idempotencyKey="a  key", title="Second")
    added(before, await footprint(unattended))
    assert first["errors"] == []
    assert again == {"media": first["media"] | signed(again["media"]), "duplicateOf": None, "errors": []}


async def test_a_key_repeated_at_once(unattended: Server, ida: Account) -> None:
    content = photograph(64, 48)
    before = await footprint(unattended)
    payloads = await asyncio.gather(*(ida.upload(content, idempotencyKey="retry") for _ in range(6)))
    added(before, await footprint(unattended))
    assert len({payload["media"]["id"] for payload in payloads}) == 1
    assert [(payload["duplicateOf"], payload["errors"]) for payload in payloads] == [(None, [])] * 6


async def test_an_avatar_with_a_key_is_placed_once(unattended: Server, ida: Account) -> None:
    """Its bytes are no duplicate of anything: here the key alone tells."""
    profile = await ida.profile((await ida.person())["id"])
    content = photograph(64, 48)
    before = await footprint(unattended)
    place = {"entityId": profile["id"], "slot": "avatar", "idempotencyKey": " spaced  out "}
    first, again = await ida.upload(content, **place), await ida.upload(content, **place)
    added(before, await footprint(unattended))
    assert again == {"media": first["media"] | signed(again["media"]), "duplicateOf": None, "errors": []}


async def test_a_key_with_another_file_is_a_conflict(unattended: Server, ida: Account, bob: Account) -> None:
    await ida.uploaded(photograph(64, 48), idempotencyKey="once")
    before = await footprint(unattended)
    payload = await ida.upload(photograph(64, 48), idempotencyKey="once")
    assert payload == {
        "media": None,
        "duplicateOf": None,
        "errors": [
            {
                "code": "CONFLICT",
                "message": "This idempotency key was used with another file.",
                "path": ["input", "idempotencyKey"],
            }
        ],
    }
    assert await footprint(unattended) == before
    # Somebody else's keys are their own.
    assert (await bob.upload(photograph(64, 48), idempotencyKey="once"))["errors"] == []


async def test_a_key_with_two_files_at_once_is_a_conflict_for_one(unattended: Server, ida: Account) -> None:
    before = await footprint(unattended)
    payloads = await asyncio.gather(*(ida.upload(photograph(64, 48), idempotencyKey="race") for _ in range(4)))
    added(before, await footprint(unattended))
    codes = [error["code"] for payload in payloads for error in payload["errors"]]
    assert (codes, [payload["media"] is None for payload in payloads].count(False)) == (["CONFLICT"] * 3, 1)


# ---------------------------------------------------------------- the queue


async def test_avatars_and_covers_come_before_all_others(unattended: Server, ida: Account) -> None:
    profile = await ida.profile((await ida.person())["id"])
    uploads = {
        "library": await ida.uploaded(photograph(64, 48)),
        "photos": await ida.uploaded(photograph(64, 48), entityId=profile["id"]),
        "avatar": await ida.uploaded(photograph(64, 48), entityId=profile["id"], slot="avatar"),
        "cover": await ida.uploaded(photograph(64, 48), entityId=profile["id"], slot="cover"),
    }
    names = {media["id"]: name for name, media in uploads.items()}
    jobs = await fetch(
        unattended,
        "SELECT convert_from(payload, 'UTF8')::jsonb ->> 'media' AS media, priority, status::text AS status"
        " FROM pgqueuer WHERE entrypoint = 'ingest' AND convert_from(payload, 'UTF8')::jsonb ->> 'media' = ANY($1)"
        " ORDER BY priority DESC, id",
        list(names),
    )
    assert [(names[str(job["media"])], job["priority"], job["status"]) for job in jobs] == [
        ("avatar", 100, "queued"),
        ("cover", 100, "queued"),
        ("library", 10, "queued"),
        ("photos", 10, "queued"),
    ]
