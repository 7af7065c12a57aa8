"""Signed URLs: when they are valid, and the two ways to sign them.

Both signers are pure and take a few microseconds, so that a page of hundreds of media can be signed in place.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import Literal
from urllib.parse import quote, urlsplit

from storage.base import InvalidSignature, SignatureExpired
from storage.disposition import content_disposition, shows_inline
from storage.keys import content_type_of

DEFAULT_LIFETIME = timedelta(hours=1)
DEFAULT_WINDOW = timedelta(minutes=15)
MAX_LIFETIME = timedelta(days=7)  # X-Amz-Expires allows no more
MIN_SECRET_BYTES = 16  # 128 bits
SIGNATURE_HEX_CHARACTERS = 64  # SHA-256

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
        timestamp = int(now.timestamp())
        signed_at = timestamp - timestamp % self.window
        if self._last.signed_at != signed_at:
            self._last = self._period(signed_at)
        return self._last

    def _period(self, signed_at: int) -> Period:
        expires = signed_at + self.lifetime
        return Period(signed_at, expires, datetime.fromtimestamp(expires, UTC))


@dataclass(frozen=True, slots=True)
class SignedAccess:
    """What a verified URL allows: until when (seconds since 1970), and how the bytes are to be named."""

    expires: int
    disposition: Disposition
    filename: str | None


class UrlSigner:
    """HMAC-SHA256 (RFC 2104) over method, key, expiry, disposition and file name: for files that we serve ourselves."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) < MIN_SECRET_BYTES:
            raise ValueError(f"a signing secret needs at least {MIN_SECRET_BYTES} bytes")
        self._secret = secret

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
        expected = self._signature(method, key, expires, disposition, filename)
        if not hmac.compare_digest(expected.encode(), query.get("signature", "").encode("utf-8", "replace")):
            raise InvalidSignature("the URL carries no valid signature")
        if now.timestamp() >= int(expires):
            raise SignatureExpired("the URL has expired")
        return SignedAccess(int(expires), "inline" if disposition == "inline" else "attachment", filename or None)

    def _signature(self, method: str, key: str, expires: str, disposition: str, filename: str) -> str:
        # Lengths in front, so that nobody can move a character from one part to its neighbour.
        head = f"{method}:{len(key)}:{len(expires)}:{len(disposition)}:"
        message = f"{head}{key}{expires}{disposition}{filename}"
        return hmac.digest(self._secret, message.encode("utf-8", "surrogatepass"), "sha256").hex()


@dataclass(frozen=True, slots=True)
class S3Credentials:
    """An access key as AWS hands it out; `session_token` with temporary ones."""

    access_key: str
    secret_key: str
    session_token: str | None = None


class S3Presigner:
    """Signature Version 4 in the query string, for GET of one bucket's objects by path-style URLs.

    The same bytes as botocore's, at a thirtieth of its cost: all that does not change within a signing window is
    composed once.
    https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
    """

    def __init__(self, *, endpoint_url: str, bucket: str, region: str, credentials: S3Credentials) -> None:
        endpoint = urlsplit(endpoint_url)
        self._path = f"{endpoint.path.rstrip('/')}/{bucket}/"
        self._origin = f"{endpoint.scheme}://{endpoint.netloc}"
        self._host = _host_header(endpoint_url)
        self._region = region
        self.credentials = credentials
        self._day = ("", b"")
        self._frame = _Frame(Period(0, 0, datetime.fromtimestamp(0, UTC)), "", "", "", b"")

    def url(self, key: str, *, period: Period, disposition: Disposition, filename: str | None) -> str:
        """A URL for a validated `key`. A plain `inline` says nothing more than the object's own headers do."""
        frame = self._frame if self._frame.period is period else self._new_frame(period)
        operation = _disposition_parameter(disposition, filename)
        path = self._path + key
        # The canonical query is sorted: `response-…` comes after `X-Amz-…`, though the URL has it before.
        canonical = (
            f"GET\n{path}\n{frame.canonical_query}{operation and '&'}{operation}\n"
            f"host:{self._host}\n\nhost\nUNSIGNED-PAYLOAD"
        )
        to_sign = frame.to_sign + sha256(canonical.encode()).hexdigest()
        signature = hmac.digest(frame.key, to_sign.encode(), "sha256").hex()
        query = f"{operation}{operation and '&'}{frame.url_query}"
        return f"{self._origin}{path}?{query}&X-Amz-Signature={signature}"

    def _new_frame(self, period: Period) -> "_Frame":
        date_time = datetime.fromtimestamp(period.signed_at, UTC).strftime("%Y%m%dT%H%M%SZ")
        day = date_time[:8]
        scope = f"{day}/{self._region}/s3/aws4_request"
        head = (
            "X-Amz-Algorithm=AWS4-HMAC-SHA256"
            f"&X-Amz-Credential={quote(f'{self.credentials.access_key}/{scope}', safe='-._~')}"
            f"&X-Amz-Date={date_time}&X-Amz-Expires={period.expires - period.signed_at}"
        )
        token = self.credentials.session_token
        security = f"&X-Amz-Security-Token={quote(token, safe='-._~')}" if token else ""
        headers = "&X-Amz-SignedHeaders=host"
        self._frame = _Frame(
            period=period,
            canonical_query=f"{head}{security}{headers}",
            url_query=f"{head}{headers}{security}",
            to_sign=f"AWS4-HMAC-SHA256\n{date_time}\n{scope}\n",
            key=self._signing_key(day),
        )
        return self._frame

    def _signing_key(self, day: str) -> bytes:
        if self._day[0] != day:
            key = f"AWS4{self.credentials.secret_key}".encode()
            for part in (day, self._region, "s3", "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._day = (day, key)
        return self._day[1]


@dataclass(frozen=True, slots=True)
class _Frame:
    """What all URLs of one period share."""

    period: Period
    canonical_query: str
    url_query: str
    to_sign: str
    key: bytes


@lru_cache(maxsize=4096)
def _disposition_parameter(disposition: Disposition, filename: str | None) -> str:
    if not filename and disposition == "inline":
        return ""
    return f"response-content-disposition={quote(content_disposition(disposition, filename), safe='-._~')}"


def _host_header(url: str) -> str:
    """Host and port as clients send them: lower case, without a default port, IPv6 in brackets."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    default_port = {"http": 80, "https": 443}.get(parts.scheme)
    return host if parts.port in (None, default_port) else f"{host}:{parts.port}"
