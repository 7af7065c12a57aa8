"""What setting a bucket up does beside what is in it already."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import botocore.session
import pytest
from botocore.config import Config

from storage.base import SetUp
from storage.s3 import S3Storage
from tests.contracts.servers import ACCESS_KEY, REGION, SECRET_KEY, S3Server

pytestmark = pytest.mark.usefixtures("aws_credentials")

ALL = ["bucket", "uploads from web pages", "unfinished uploads in parts", "what is left in incoming/"]
THEIR_CORS = {"ID": "theirs", "AllowedOrigins": ["https://theirs.example"], "AllowedMethods": ["GET"]}
THEIR_LIFECYCLE = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 9}}


@pytest.fixture
def operator(radosgw_server: S3Server) -> Iterator[Any]:
    """Who has the bucket's keys beside us."""
    client = botocore.session.Session().create_client(
        "s3",
        region_name=REGION,
        endpoint_url=radosgw_server.endpoint_url,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
    )
    yield client
    client.close()


@pytest.fixture
def bucket() -> str:
    return f"b-{uuid4()}"


async def set_up(server: S3Server, bucket: str, **options: Any) -> dict[str, SetUp]:
    url = server.endpoint_url
    async with S3Storage.open_bucket(bucket, region=REGION, endpoint_url=url, **options) as storage:
        return {step.name: step.outcome for step in await storage.set_up()}


def lifecycle(operator: Any, bucket: str) -> dict[str, Any]:
    rules = operator.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert len({rule["ID"] for rule in rules}) == len(rules)
    return {rule["ID"]: rule for rule in rules}


async def test_a_new_bucket(radosgw_server: S3Server, operator: Any, bucket: str) -> None:
    assert await set_up(radosgw_server, bucket) == dict.fromkeys(ALL, SetUp.DONE)
    [cors] = operator.get_bucket_cors(Bucket=bucket)["CORSRules"]
    assert (cors["AllowedOrigins"], cors["AllowedHeaders"], cors["ExposeHeaders"]) == (["*"], ["*"], ["ETag"])
    assert sorted(cors["AllowedMethods"]) == ["GET", "HEAD", "PUT"]
    rules = lifecycle(operator, bucket)
    assert rules["heirloom-unfinished-uploads"]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 2}
    assert "Expiration" not in rules["heirloom-unfinished-uploads"]
    assert rules["heirloom-staged-uploads"]["Filter"] == {"Prefix": "incoming/"}
    assert rules["heirloom-staged-uploads"]["Expiration"] == {"Days": 2}

    assert await set_up(radosgw_server, bucket) == dict.fromkeys(ALL, SetUp.THERE)
    assert operator.get_bucket_cors(Bucket=bucket)["CORSRules"] == [cors]
    assert lifecycle(operator, bucket) == rules


async def test_the_operators_rules_stay(radosgw_server: S3Server, operator: Any, bucket: str) -> None:
    operator.create_bucket(Bucket=bucket)
    operator.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [THEIR_CORS]})
    older_form = {"ID": "older", "Status": "Disabled", "Prefix": "old/", "Expiration": {"Days": 99}}
    operator.put_bucket_lifecycle_configuration(
        Bucket=bucket, LifecycleConfiguration={"Rules": [THEIR_LIFECYCLE, older_form]}
    )
    expected = dict.fromkeys(ALL, SetUp.DONE) | {"bucket": SetUp.THERE}

    assert await set_up(radosgw_server, bucket) == expected
    assert operator.get_bucket_cors(Bucket=bucket)["CORSRules"][0] == THEIR_CORS
    rules = lifecycle(operator, bucket)
    assert rules["theirs"] == THEIR_LIFECYCLE
    assert (rules["older"]["Status"], rules["older"]["Expiration"]) == ("Disabled", {"Days": 99})
    assert rules["older"].get("Prefix", rules["older"].get("Filter")) in ("old/", {"Prefix": "old/"})
    assert len(rules) == 4


async def test_our_rules_follow_the_settings(radosgw_server: S3Server, operator: Any, bucket: str) -> None:
    await set_up(radosgw_server, bucket)
    outcomes = await set_up(radosgw_server, bucket, unfinished=timedelta(days=7, seconds=1))

    assert list(outcomes.values()) == [SetUp.THERE, SetUp.THERE, SetUp.DONE, SetUp.DONE]
    rules = lifecycle(operator, bucket)
    assert rules["heirloom-unfinished-uploads"]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 8}
    assert rules["heirloom-staged-uploads"]["Expiration"] == {"Days": 8}
    assert len(rules) == 2


async def test_what_a_server_does_not_have_is_refused(rclone_server: S3Server, bucket: str) -> None:
    outcomes = await set_up(rclone_server, bucket)
    assert list(outcomes.values()) == [SetUp.DONE, *[SetUp.REFUSED] * 3]
    async with S3Storage.open_bucket(bucket, region=REGION, endpoint_url=rclone_server.endpoint_url) as storage:
        await storage.ready()
        details = [step.detail for step in await storage.set_up()]
    assert details[:2] == [
        "",
        "The storage answered BucketAlreadyExists: pages can't send files to it or name their parts, unless it allows "
        "every origin by itself.",
    ]
