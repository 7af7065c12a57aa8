"""Setting a bucket up: made where it is absent, with the rules that browsers and unfinished uploads need.

Rules that the operator has made stay as they are. Ours are known by their ID, or by saying the same.
"""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from botocore.exceptions import ClientError

from storage.base import SetUp, SetUpStep
from storage.keys import STAGING_FOLDER
from storage.s3_calls import MISSING, Calls, code_of, failures, is_transient

Rule = dict[str, Any]

NO_RULES = {"NoSuchCORSConfiguration", "NoSuchLifecycleConfiguration"}
PREFLIGHT_SECONDS = 3600

# The signature is the authority: who has a signed URL may use it from any page. Without the ETag exposed, a page could
# not name the parts that it has sent.
CORS: Rule = {
    "ID": "heirloom-signed-urls",
    "AllowedOrigins": ["*"],
    "AllowedMethods": ["GET", "HEAD", "PUT"],
    "AllowedHeaders": ["*"],
    "ExposeHeaders": ["ETag"],
    "MaxAgeSeconds": PREFLIGHT_SECONDS,
}


@dataclass(frozen=True, slots=True)
class _Rules:
    """One of a bucket's lists of rules: the operations, and what the list is called in them."""

    read: str
    write: str
    parameter: str
    items: str


_CORS_RULES = _Rules("get_bucket_cors", "put_bucket_cors", "CORSConfiguration", "CORSRules")
_LIFECYCLE_RULES = _Rules(
    "get_bucket_lifecycle_configuration", "put_bucket_lifecycle_configuration", "LifecycleConfiguration", "Rules"
)


async def set_up(calls: Calls, *, region: str, unfinished: timedelta) -> Sequence[SetUpStep]:
    """`unfinished` is how old an upload is when the bucket itself may drop it, in days rounded up."""
    days = -(-unfinished // timedelta(days=1))
    with failures(f"the bucket {calls.bucket}"):
        return [
            await _step(
                "bucket",
                _bucket(calls, region),
                "nothing can be stored, unless it is there and only looking is forbidden",
            ),
            await _step(
                "uploads from web pages",
                _rule(calls, _CORS_RULES, CORS),
                "pages can't send files to it or name their parts, unless it allows every origin by itself",
            ),
            await _step(
                "unfinished uploads in parts",
                _rule(calls, _LIFECYCLE_RULES, _aborting(days)),
                "parts that were never completed stay, and cost, until Heirloom itself has aborted them",
            ),
            await _step(
                f"what is left in {STAGING_FOLDER}/",
                _rule(calls, _LIFECYCLE_RULES, _expiring(days)),
                "what was sent and never completed stays, and costs, until Heirloom itself has deleted it",
            ),
        ]


async def _step(name: str, doing: Awaitable[SetUp], cost: str) -> SetUpStep:
    try:
        return SetUpStep(name, await doing)
    except ClientError as error:
        if is_transient(error):
            raise
        return SetUpStep(name, SetUp.REFUSED, f"The storage answered {code_of(error)}: {cost}.")


async def _bucket(calls: Calls, region: str) -> SetUp:
    try:
        await calls.call("head_bucket")
    except ClientError as error:
        if code_of(error) not in MISSING:
            raise
        return await _create_bucket(calls, region)
    return SetUp.THERE


async def _create_bucket(calls: Calls, region: str) -> SetUp:
    # Amazon wants the region named everywhere but in its first; others know nothing of its regions.
    abroad = "amazonaws.com" in calls.client.meta.endpoint_url and region != "us-east-1"
    where: dict[str, Any] = {"CreateBucketConfiguration": {"LocationConstraint": region}} if abroad else {}
    try:
        await calls.call("create_bucket", **where)
    except ClientError as error:
        # Another process was faster, or it is somebody else's, which the second look tells apart.
        if code_of(error) not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
            raise
        await calls.call("head_bucket")
        return SetUp.THERE
    return SetUp.DONE


async def _rule(calls: Calls, rules: _Rules, ours: Rule) -> SetUp:
    """Add `ours` to the bucket's list, or bring up to date what is there of it."""
    present = await _present(calls, rules)
    if any(_meaning(rule) == _meaning(ours) for rule in present):
        return SetUp.THERE
    # A list may not have rules of both the older form, with a prefix of its own, and the present one.
    kept = [_present_form(rule) for rule in present if rule.get("ID") != ours["ID"]]
    await calls.call(rules.write, **{rules.parameter: {rules.items: [*kept, ours]}})
    return SetUp.DONE


async def _present(calls: Calls, rules: _Rules) -> list[Rule]:
    try:
        answer = await calls.call(rules.read)
    except ClientError as error:
        if code_of(error) in NO_RULES:
            return []
        raise
    present: list[Rule] = answer.get(rules.items, [])
    return present


def _present_form(rule: Rule) -> Rule:
    if "Prefix" not in rule:
        return rule
    return {name: value for name, value in rule.items() if name != "Prefix"} | {"Filter": {"Prefix": rule["Prefix"]}}


def _meaning(rule: Rule) -> Rule:
    """What can be compared: servers give lists in another order, and some forget the ID."""
    return {
        name: sorted(value) if isinstance(value, list) and all(isinstance(item, str) for item in value) else value
        for name, value in _present_form(rule).items()
        if name != "ID"
    }


def _aborting(days: int) -> Rule:
    return {
        "ID": "heirloom-unfinished-uploads",
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": days},
    }


def _expiring(days: int) -> Rule:
    return {
        "ID": "heirloom-staged-uploads",
        "Status": "Enabled",
        "Filter": {"Prefix": f"{STAGING_FOLDER}/"},
        "Expiration": {"Days": days},
    }
