import dataclasses
import pickle

import pytest

from processing.failures import FailureCode, ProcessingFailed
from processing.variants import IMAGE_VARIANTS, VariantName, VariantSpec


def test_the_four_variants() -> None:
    assert {spec.name: (spec.width, spec.height, spec.crop) for spec in IMAGE_VARIANTS} == {
        VariantName.THUMBNAIL: (150, 150, True),
        VariantName.SMALL: (400, 400, False),
        VariantName.MEDIUM: (800, 800, False),
        VariantName.LARGE: (1600, 1600, False),
    }


def test_digests_tell_specs_apart() -> None:
    spec = IMAGE_VARIANTS[0]
    changes: list[dict[str, object]] = [
        {"name": VariantName.SMALL}, {"width": 151}, {"height": 151}, {"crop": False}, {"quality": 81}, {"effort": 3},
    ]  # fmt: skip
    changed = {dataclasses.replace(spec, **change).digest for change in changes}  # type: ignore[arg-type]  # by name
    assert len({spec.digest} | changed) == 7
    assert {field.name for field in dataclasses.fields(VariantSpec)} == {name for c in changes for name in c}


def test_a_digest_stays_the_same_from_process_to_process() -> None:
    # Written out: were it to change by accident, every stored variant would be made anew.
    assert IMAGE_VARIANTS[0].digest == "534f241694ec"


@pytest.mark.parametrize("code", FailureCode)
def test_failures_survive_pickling(code: FailureCode) -> None:
    copy = pickle.loads(pickle.dumps(ProcessingFailed(code, "Für Menschen.")))
    assert (type(copy), copy.code, copy.message) == (ProcessingFailed, code, "Für Menschen.")
