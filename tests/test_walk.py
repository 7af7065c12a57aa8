"""The first walk through the whole product."""

from __future__ import annotations

from tests.client import Account
from tests.pictures import photograph


async def test_a_photograph_is_uploaded_watched_and_opened(ada: Account) -> None:
    person = await ada.person("Ada Lovelace", birthDate="1815-12-10")
    media = await ada.uploaded(photograph(4000, 3000), "ada.jpg", entityId=person["id"])
    assert media["status"] == "UPLOADED"

    updates = await ada.watch(media["id"])
    assert [update["stage"] for update in updates][-1] == "DONE"
    assert updates[-1]["status"] == "READY"

    ready = await ada.settled(media["id"])
    assert [(variant["name"], variant["width"], variant["height"]) for variant in ready["variants"]] == [
        ("THUMBNAIL", 150, 150),
        ("SMALL", 400, 300),
        ("MEDIUM", 800, 600),
        ("LARGE", 1600, 1200),
    ]
    for variant in ready["variants"]:
        answer = await ada.http.get(variant["url"])
        assert (answer.status_code, answer.headers["content-type"], len(answer.content)) == (
            200,
            "image/webp",
            variant["sizeBytes"],
        )
