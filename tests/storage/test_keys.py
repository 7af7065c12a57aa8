import re
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest

from storage.base import InvalidKey
from storage.keys import (
    CONTENT_TYPES,
    MAX_KEY_BYTES,
    KeyTemplate,
    content_type_of,
    extension_of,
    key_without_entity,
    medium_prefixes,
    validate_key,
    validate_prefix,
    variant_key,
)

ENTITY = UUID("0190a1b2-0000-7000-8000-000000000001")
USER = UUID("0190a1b2-0000-7000-8000-000000000002")
NOW = datetime(2026, 1, 31, 23, 30, 5, 250_000, tzinfo=timezone(timedelta(hours=-2)))  # the 1st of February in UTC


def original(template: str = KeyTemplate().template, **values: str) -> str:
    fields = {"entity_type": "PERSON", "media_type": "IMAGE", "slot": "photos", "extension": "jpg"} | values
    return KeyTemplate(template).key(**fields, entity_id=ENTITY, now=NOW)


def test_the_default_template() -> None:
    key = KeyTemplate().key(
        entity_type="PROFILE",
        media_type="IMAGE",
        entity_id=ENTITY,
        slot="avatar",
        extension="heic",
        now=NOW,
        random="ab12",
    )
    assert key == f"profile/image/{ENTITY}/2026-02/avatar-20260201013005-ab12.heic"


def test_a_template_of_ones_own() -> None:
    assert re.fullmatch(
        rf"media/2026/02/01/{ENTITY}/photos-20260201013005-[0-9a-f]{{16}}\.jpg",
        original("media/{YYYY}/{MM}/{DD}/{entity_id}/{filename}"),
    )
    assert original("{filename}").startswith("photos-20260201013005-")


def test_keys_are_never_the_same_twice() -> None:
    assert len({original() for _ in range(100)}) == 100


def test_media_without_entity() -> None:
    unique = UUID("c0ffee00-0000-4000-8000-000000000000")
    key = key_without_entity(media_type="VIDEO", user_id=USER, extension="mp4", now=NOW, unique=unique)
    assert key == f"video/{USER}/{int(NOW.timestamp() * 1000)}-{unique}.mp4"
    assert key.split("/")[2].startswith("1769909405250-")


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("", "must end in the segment {filename}"),
        ("{entity_type}", "must end in the segment {filename}"),
        ("{entity_id}-{filename}", "must end in the segment {filename}"),
        ("{filename}/x", "must end in the segment {filename}"),
        ("{filename}/{filename}", "name it only there"),
        ("{owner}/{filename}", "has no field 'owner': it knows entity_type, media_type, entity_id"),
        ("{}/{filename}", "has no field ''"),
        ("{entity_id/{filename}", "does not make keys"),
        ("/{entity_id}/{filename}", "does not make keys"),
        ("a//{filename}", "does not make keys"),
        ("../{filename}", "does not make keys"),
        (".incoming/{filename}", "does not make keys"),
        ("größe/{filename}", "does not make keys"),
        ("a b/{filename}", "does not make keys"),
        ("a/" * 450 + "{filename}", "more than 1024 bytes"),
        ("{entity_id}" * 8 + "/{filename}", "a segment of more than 255 bytes"),
    ],
)
def test_a_wrong_template_is_refused_with_a_sentence(template: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)) as refusal:
        KeyTemplate(template)
    assert str(refusal.value).startswith("the key template ")


@pytest.mark.parametrize(
    "values",
    [{"slot": "../x"}, {"slot": "a/b"}, {"extension": "j.pg"}, {"entity_type": ""}, {"media_type": "bild ä"}],
)
def test_values_cannot_add_segments(values: str) -> None:
    with pytest.raises(InvalidKey):
        original(**values)  # type: ignore[arg-type]  # the parameters are dictionaries


@pytest.mark.parametrize("key", ["a", "a.jpg", "a/b.c/D_e-f.jpg", "a/" * 511 + "ab", "x" * 255])
def test_keys_that_are_fine(key: str) -> None:
    assert validate_key(key) == key


@pytest.mark.parametrize(
    "key",
    [
        *("", "/", "/a", "a/", "a//b", ".", "..", "./a", "a/.", "a/..", "a/../b", ".incoming/a", "a/.b"),
        *("a b", "a\\b", "a\n", "a\0", "ä", "%2e", "a?b", "a/" * 512 + "b", "x" * 256),
    ],
)
def test_keys_that_are_refused(key: str) -> None:
    with pytest.raises(InvalidKey):
        validate_key(key)


def test_prefixes() -> None:
    assert [validate_prefix(prefix) for prefix in ("", "a", "a/", "a/b_")] == ["", "a", "a/", "a/b_"]
    for prefix in ("/", "a//", "../", "a/.."):
        with pytest.raises(InvalidKey):
            validate_prefix(prefix)


def test_variants_lie_beside_their_original() -> None:
    key = f"person/image/{ENTITY}/2026-02/photos-20260201013005-ab12.heic"
    assert variant_key(key, "THUMBNAIL", "0f1e2d") == key.removesuffix(".heic") + "_thumbnail-0f1e2d.webp"
    assert variant_key(key, "poster", "0f1e2d", "avif") == key.removesuffix(".heic") + "_poster-0f1e2d.avif"
    for name, digest in (("a/b", "0"), ("", "0"), ("a", "x" * 64)):
        with pytest.raises(InvalidKey):
            variant_key(key, name, digest)


def test_a_mediums_prefixes_cover_all_of_it_and_nothing_else() -> None:
    key, longer = "a/photos-1-ab.jpg", "a/photos-1-abc.jpg"
    prefixes = medium_prefixes(key)

    for own in (key, variant_key(key, "small", "0f"), variant_key(key, "large", "0f", "avif")):
        assert own.startswith(prefixes)
    for other in (longer, variant_key(longer, "small", "0f"), "a/photos-1-ab-c.jpg"):
        assert not other.startswith(prefixes)
    with pytest.raises(InvalidKey):
        medium_prefixes("a.b/stem")


def test_the_longest_key_leaves_room_for_its_variants() -> None:
    template = "a/" * 406 + "{filename}"
    key = KeyTemplate(template).key(
        entity_type="t", media_type="m", entity_id=ENTITY, slot="s" * 80, extension="jpg", now=NOW
    )
    assert len(variant_key(key, "v" * 30, "d" * 25)) <= MAX_KEY_BYTES


def test_an_extension_tells_the_content_type() -> None:
    assert content_type_of("a.b/c.jpg") == "image/jpeg"
    assert {extension_of(content_type): content_type for content_type in CONTENT_TYPES.values()} == CONTENT_TYPES
    for key in ("a.exe", "a", "jpg/a", "a.JPG"):
        with pytest.raises(InvalidKey):
            content_type_of(key)
    with pytest.raises(ValueError, match="text/html"):
        extension_of("text/html")


def test_time_zones_are_wanted() -> None:
    assert original().split("/")[3] == NOW.astimezone(UTC).strftime("%Y-%m") == "2026-02"
