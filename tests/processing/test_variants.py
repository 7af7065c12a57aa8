import dataclasses

import pytest

from processing.kinds import MediaKind
from processing.variants import (
    PICTURE_VARIANTS,
    PREVIEW,
    SPECS,
    STILL_VARIANTS,
    STREAM,
    Spec,
    VariantName,
    recipe,
)


def test_the_four_variants() -> None:
    assert {spec.name: (spec.width, spec.height, spec.crop) for spec in PICTURE_VARIANTS} == {
        VariantName.THUMBNAIL: (150, 150, True),
        VariantName.SMALL: (400, 400, False),
        VariantName.MEDIUM: (800, 800, False),
        VariantName.LARGE: (1600, 1600, False),
    }


@pytest.mark.parametrize("kind", MediaKind)
def test_a_kind_has_each_variant_once(kind: MediaKind) -> None:
    names = [spec.name for spec in SPECS[kind]]
    assert len(names) == len(set(names))
    film = {VariantName.POSTER, VariantName.PREVIEW, VariantName.STREAM}
    assert set(names) == set(VariantName) - ({VariantName.LARGE} if kind is MediaKind.VIDEO else film)


@pytest.mark.parametrize("spec", [PICTURE_VARIANTS[0], PREVIEW, STREAM], ids=lambda spec: spec.name)
def test_digests_tell_specs_apart(spec: Spec) -> None:
    digests = {spec.digest}
    fields = dataclasses.fields(spec)
    for field in fields:
        value = getattr(spec, field.name)
        match value:
            case bool():
                other: object = not value
            case VariantName():
                other = VariantName.SMALL
            case str():
                other = "slow"
            case _:
                other = value + 1
        digests.add(dataclasses.replace(spec, **{field.name: other}).digest)  # type: ignore[arg-type]  # by name
    assert len(digests) == 1 + len(fields)


def test_a_digest_stays_the_same_from_process_to_process() -> None:
    # Written out: were it to change by accident, every stored variant would be made anew.
    assert (PICTURE_VARIANTS[0].digest, PREVIEW.digest, STREAM.digest) == (
        "1acc205f7b21",
        "bfa29720ded2",
        "c32a1b5bbad3",
    )


def test_recipes_are_those_of_their_variants() -> None:
    assert recipe(MediaKind.IMAGE) == recipe(MediaKind.AUDIO) == recipe(MediaKind.DOCUMENT)
    assert recipe(MediaKind.IMAGE) != recipe(MediaKind.VIDEO)
    # What a film and a picture have in common is the same of both.
    assert {spec.digest for spec in PICTURE_VARIANTS[:3]} == {spec.digest for spec in STILL_VARIANTS[:3]}
