"""Signed URLs: when they are valid, and how those are signed that we serve ourselves (S3's: `storage.s3_signing`).

Both signers are pure and take a few microseconds, so that a page of hundreds of media can be signed in place.
"""

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, Self
from urllib.parse import quote

from storage.base import InvalidSignature, SignatureExpired, SignedUrl
from storage.disposition import shows_inline
from storage.keys import content_type_of, validate_key

DEFAULT_LIFETIME = timedelta(hours=1)
DEFAULT_WINDOW = timedelta(minutes=15)
MAX_LIFETIME = timedelta(days=7)  # X-Amz-Expires allows no more
MIN_SECRET_BYTES = 16  # 128 bits

MOST_REMEMBERED = 20_000  # URLs, of about 500 bytes each with what they are known by
MOST_CHARACTERS = 1_000  # of one; a filename may make it 3,000 long, which is signed each time

# Signed in a method's place, each with fields of its own.
PUT_OBJECT = "PUT object"
PUT_PART = "PUT part"

Disposition = Literal["inline", "attachment"]


def disposition_for(key: str, *, inline: bool) -> Disposition:
    """`inline` only for what a browser shows without running it, whatever was asked for."""
    return "inline" if inline and shows_inline(content_type_of(key)) else "attachment"


@dataclass(frozen=True, slots=True)
class Period:
    """The span of one signature: seconds since 1970, and its end as a datetime in UTC."""

    signed_at: int
    expires: int
    expires_at: datetime

    @classmethod
    def starting(cls, now: datetime, lifetime: timedelta) -> Self:
        """From `now` (aware), or rather the whole second before it. Raises ValueError for a time without zone."""
        if now.tzinfo is None:
            raise ValueError("the time of signing needs a time zone")
        signed_at = int(now.timestamp())
        expires = signed_at + int(lifetime.total_seconds())
        return cls(signed_at, expires, datetime.fromtimestamp(expires, UTC))


class SigningWindow:
    """Rounds signing times down, so that a URL stays the same, and cacheable, for `window`.

    With a window of at most half the lifetime no URL is handed out with less than half its life left.
    """

    def __init__(self, *, lifetime: timedelta = DEFAULT_LIFETIME, window: timedelta = DEFAULT_WINDOW) -> None:
        self.lifetime = int(lifetime.total_seconds())
        self.window = int(window.total_seconds())
        if not 1 <= self.lifetime <= MAX_LIFETIME.total_seconds():
            raise ValueError(f"signed URLs must live between 1 second and {MAX_LIFETIME.days} days, not {lifetime}")
        if not 1 <= self.window <= self.lifetime / 2:
            raise ValueError(f"the signing window ({window}) must be between 1 second and half of {lifetime}")
        self._last = self._period(0)

    def at(self, now: datetime) -> Period:
        """The period that a URL handed out at `now` (aware) belongs to."""
        if now.tzinfo is None:
            raise ValueError("the time of signing needs a time zone")
        if not self._begins <= now < self._ends:
            timestamp = int(now.timestamp())
            self._last = self._period(timestamp - timestamp % self.window)
        return self._last

    def _period(self, signed_at: int) -> Period:
        self._begins = datetime.fromtimestamp(signed_at, UTC)
        self._ends = self._begins + timedelta(seconds=self.window)
        expires = signed_at + self.lifetime
        return Period(signed_at, expires, datetime.fromtimestamp(expires, UTC))


class SignedUrls(dict[str | tuple[str, str], str]):
    """By key, or by that and a filename: the URLs of one period, each signed when it is first asked for.

    A page of a hundred media asks for 600 of them, again and again in the same window: with nothing around them they
    are found in half the time. `sign` makes the URL of a valid key, by the period, how it is to be shown, and the
    filename as it was given.
    """

    def __init__(self, window: SigningWindow, sign: Callable[[str, Period, Disposition, str | None], str]) -> None:
        super().__init__()
        self._window = window
        self._period = window.at(datetime.now(UTC))
        self._sign = sign

    def at(self, now: datetime) -> Self:
        """Those that are handed out at `now` (aware); what another window's were is forgotten."""
        period = self._window.at(now)
        if period is not self._period:
            self.clear()
            self._period = period
        return self

    def get_url(self, key: str, *, now: datetime, filename: str | None, inline: bool) -> SignedUrl:
        """See ObjectStorage.presign_get. Raises InvalidKey."""
        urls = self.at(now)
        if not inline:
            url = self._signed(key, filename, inline=False)
        else:
            url = urls[key] if filename is None else urls[key, filename]
        return SignedUrl(url, self._period.expires_at)

    def __missing__(self, what: str | tuple[str, str]) -> str:
        """Raises InvalidKey."""
        if len(self) >= MOST_REMEMBERED:
            self.clear()
        key, filename = (what, None) if isinstance(what, str) else what
        url = self._signed(key, filename, inline=True)
        if len(url) <= MOST_CHARACTERS:
            self[what] = url
        return url

    def _signed(self, key: str, filename: str | None, *, inline: bool) -> str:
        return self._sign(validate_key(key), self._period, disposition_for(key, inline=inline), filename)


@dataclass(frozen=True, slots=True)
class SignedAccess:
    """What a verified URL allows: until when (seconds since 1970), and how the bytes are to be named."""

    expires: int
    disposition: Disposition
    filename: str | None


@dataclass(frozen=True, slots=True)
class AllowedPart:
    """A part of an upload that a verified URL allows to be stored."""

    upload_id: str
    number: int


class UrlSigner:
    """HMAC-SHA256 (RFC 2104) for files that we serve ourselves: over all that a URL allows, and how it is to be sent.

    As on S3, a PUT's length and type are signed and not said in the URL: what the client sends must be the same.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) < MIN_SECRET_BYTES:
            raise ValueError(f"a signing secret needs at least {MIN_SECRET_BYTES} bytes")
        self._keyed = hmac.new(secret, digestmod="sha256")  # a copy of it costs half of a new one

    def query(self, method: str, key: str, *, expires: int, disposition: Disposition, filename: str | None) -> str:
        """The query string that makes `key` accessible by `method` until `expires` (seconds since 1970)."""
        signature = self._signature(method, key, str(expires), disposition, filename or "")
        if not filename:
            return f"disposition={disposition}&expires={expires}&signature={signature}"
        name = quote(filename, safe="")
        return f"disposition={disposition}&expires={expires}&filename={name}&signature={signature}"

    def verify(self, method: str, key: str, query: Mapping[str, str], *, now: datetime) -> SignedAccess:
        """What the decoded `query` allows. Raises InvalidSignature, or SignatureExpired when it was once ours."""
        expires, disposition = query.get("expires", ""), query.get("disposition", "")
        filename = query.get("filename", "")
        self._check(query, self._signature(method, key, expires, disposition, filename), now)
        return SignedAccess(int(expires), "inline" if disposition == "inline" else "attachment", filename or None)

    def put_query(self, key: str, *, size: int, content_type: str, expires: int) -> str:
        """The query string for a PUT of exactly `size` bytes of this type, until `expires` (seconds since 1970)."""
        return f"expires={expires}&signature={self._signature(PUT_OBJECT, key, str(expires), str(size), content_type)}"

    def part_query(self, key: str, upload_id: str, number: int, *, size: int, expires: int) -> str:
        """The same for one part of an upload."""
        signature = self._signature(PUT_PART, key, str(expires), str(size), upload_id, str(number))
        return f"expires={expires}&partNumber={number}&signature={signature}&uploadId={upload_id}"

    def verify_put(
        self, key: str, query: Mapping[str, str], *, length: str, content_type: str, now: datetime
    ) -> AllowedPart | None:
        """Which part a PUT with these headers may store; None for the whole object. Raises as `verify` does."""
        expires = query.get("expires", "")
        if "uploadId" not in query:
            self._check(query, self._signature(PUT_OBJECT, key, expires, length, content_type), now)
            return None
        upload_id, number = query["uploadId"], query.get("partNumber", "")
        self._check(query, self._signature(PUT_PART, key, expires, length, upload_id, number), now)
        return AllowedPart(upload_id, int(number))

    def _check(self, query: Mapping[str, str], expected: str, now: datetime) -> None:
        if not hmac.compare_digest(expected.encode(), query.get("signature", "").encode("utf-8", "replace")):
            raise InvalidSignature("the URL carries no valid signature")
        if now.timestamp() >= int(query["expires"]):
            raise SignatureExpired("the URL has expired")

    def _signature(self, purpose: str, *fields: str) -> str:
        # Lengths in front, so that nobody can move a character from one part to its neighbour.
        head = ":".join([purpose, *(str(len(field)) for field in fields[:-1])])
        message = f"{head}:{''.join(fields)}"
        mac = self._keyed.copy()
        mac.update(message.encode("utf-8", "surrogatepass"))
        return mac.hexdigest()
