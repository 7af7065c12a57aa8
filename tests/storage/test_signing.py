import random
import string
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import botocore.auth
import botocore.session
import pytest
from botocore.config import Config

from storage import signing
from storage.base import InvalidKey, InvalidSignature, SignatureExpired, SignedUrl
from storage.disposition import MAX_FILENAME_CHARACTERS, content_disposition, safe_filename
from storage.keys import content_type_of
from storage.s3_signing import S3Credentials, S3Presigner
from storage.signing import Disposition, Period, SignedUrls, SigningWindow, UrlSigner, disposition_for

KEY_CHARACTERS = string.ascii_letters + string.digits + "._-"
FILENAMES = [
    None,
    "plain.jpg",
    "two words & more.jpg",
    'quotes" \\ and ; semicolons, =.jpg',
    "100% ~ + * ' ( ) ! .jpg",
    "Großmutter 祖母 👵🏽.jpg",
    "line\r\nSet-Cookie: a=b.jpg",
    "../../etc/passwd",
    "\ud800 surrogate \x00.jpg",
    "txt.\u202egpj.exe",
]
NOW = datetime(2026, 2, 1, 12, 7, 30, tzinfo=UTC)


def random_key(source: random.Random) -> str:
    segments = ["k" + "".join(source.choices(KEY_CHARACTERS, k=source.randint(0, 30))) for _ in range(5)]
    return "/".join(segments[: source.randint(1, 5)]) + source.choice([".jpg", ".webp", ".bin", ".pdf"])


class TestSigningWindow:
    def test_rounds_down(self) -> None:
        period = SigningWindow(lifetime=timedelta(hours=1), window=timedelta(minutes=15)).at(NOW)
        assert period.signed_at == datetime(2026, 2, 1, 12, 0, tzinfo=UTC).timestamp()
        assert period.expires_at == datetime(2026, 2, 1, 13, 0, tzinfo=UTC)
        assert period.expires == period.expires_at.timestamp()

    def test_half_the_life_is_always_left(self) -> None:
        lifetime = timedelta(minutes=10)
        window = SigningWindow(lifetime=lifetime, window=lifetime / 2)
        source = random.Random(1)
        for _ in range(1000):
            now = NOW + timedelta(seconds=source.uniform(0, 86400))
            assert lifetime / 2 <= window.at(now).expires_at - now <= lifetime

    @pytest.mark.parametrize(
        ("lifetime", "window"),
        [
            (timedelta(hours=1), timedelta(minutes=31)),
            (timedelta(hours=1), timedelta(0)),
            (timedelta(0), timedelta(0)),
            (timedelta(days=8), timedelta(minutes=15)),
        ],
    )
    def test_refuses_other_proportions(self, lifetime: timedelta, window: timedelta) -> None:
        with pytest.raises(ValueError, match="sign"):
            SigningWindow(lifetime=lifetime, window=window)

    def test_refuses_a_time_without_zone(self) -> None:
        with pytest.raises(ValueError, match="time zone"):
            SigningWindow().at(datetime(2026, 2, 1))  # noqa: DTZ001 - that is the point


class TestSignedUrls:
    hour = timedelta(hours=1)
    first, second = "https://example.org/a.jpg?1", "https://example.org/a.jpg?2"

    def urls(self) -> SignedUrls:
        """Those of a signer that never signs the same twice, and keeps what it was asked for."""
        self.asked: list[tuple[str, int, Disposition, str | None]] = []

        def sign(key: str, period: Period, disposition: Disposition, filename: str | None) -> str:
            self.asked.append((key, period.expires, disposition, filename))
            return f"https://example.org/{key}?{len(self.asked)}"

        return SignedUrls(SigningWindow(lifetime=self.hour, window=self.hour / 4), sign)

    def test_each_is_signed_once_in_a_window(self) -> None:
        urls, started = self.urls(), datetime(2026, 2, 1, 12, 0, tzinfo=UTC)
        end, until = started + self.hour / 4, started + self.hour
        for now in (started, end - timedelta(microseconds=1)):
            assert urls.at(now)["a.jpg", "b.jpg"] == self.first
            signed = urls.get_url("a.jpg", now=now, filename="b.jpg", inline=True)
            assert signed == SignedUrl(self.first, until)
        later = until + self.hour / 4
        assert urls.at(end)["a.jpg", "b.jpg"] == self.second
        assert urls.get_url("a.jpg", now=end, filename="b.jpg", inline=True) == SignedUrl(self.second, later)
        assert self.asked == [("a.jpg", int(moment.timestamp()), "inline", "b.jpg") for moment in (until, later)]

    def test_each_has_its_own_name_and_disposition(self) -> None:
        asked = {("a.jpg", None, True), ("a.jpg", None, False), ("a.jpg", "b", True), ("a.bin", None, True)}
        urls = self.urls()
        signed = [urls.get_url(key, now=NOW, filename=name, inline=inline) for key, name, inline in asked]
        assert len({each.url for each in signed}) == 4
        assert {(key, filename, disposition) for key, _, disposition, filename in self.asked} == {
            ("a.jpg", None, "inline"),
            ("a.jpg", None, "attachment"),
            ("a.jpg", "b", "inline"),
            ("a.bin", None, "attachment"),
        }

    def test_what_is_cleared_is_signed_anew(self) -> None:
        urls = self.urls().at(NOW)
        assert urls["a.jpg"] == self.first
        urls.clear()
        assert urls["a.jpg"] == self.second

    def test_they_do_not_grow_for_ever(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(signing, "MOST_REMEMBERED", 3)
        urls, sizes = self.urls().at(NOW), []
        for number in range(8):
            urls[f"{number}.jpg"]
            sizes.append(len(urls))
        assert sizes == [1, 2, 3, 1, 2, 3, 1, 2]

    def test_a_long_one_is_not_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(signing, "MOST_CHARACTERS", len(self.first))
        urls = self.urls().at(NOW)
        assert (urls["a.jpg"], urls["ab.jpg"], urls["a.jpg"], len(urls)) == (
            self.first,
            "https://example.org/ab.jpg?2",
            self.first,
            1,
        )

    def test_another_key_than_ours_is_not_signed(self) -> None:
        urls = self.urls().at(NOW)
        with pytest.raises(InvalidKey):
            urls["../a.jpg"]
        assert (self.asked, urls) == ([], {})


class TestUrlSigner:
    signer = UrlSigner(b"0123456789abcdef")
    expires = int(NOW.timestamp()) + 60

    def query(self, filename: str | None = "a b.jpg", disposition: Disposition = "inline") -> dict[str, str]:
        query = self.signer.query("GET", "a/b.jpg", expires=self.expires, disposition=disposition, filename=filename)
        return dict(parse_qsl(query, strict_parsing=True))

    @pytest.mark.parametrize("filename", [name and safe_filename(name) for name in FILENAMES])
    def test_what_was_signed_is_verified(self, filename: str | None) -> None:
        access = self.signer.verify("GET", "a/b.jpg", self.query(filename), now=NOW)
        assert (access.expires, access.disposition, access.filename) == (self.expires, "inline", filename)

    @pytest.mark.parametrize(
        "change",
        [
            {"expires": "1999999999"},
            {"expires": "١٢"},
            {"expires": ""},
            {"disposition": "attachment"},
            {"filename": "other.jpg"},
            {"filename": ""},
            {"signature": "0" * 64},
            {"signature": ""},
            {"signature": "ü"},
        ],
    )
    def test_any_change_is_refused(self, change: dict[str, str]) -> None:
        with pytest.raises(InvalidSignature):
            self.signer.verify("GET", "a/b.jpg", self.query() | change, now=NOW)

    def test_every_part_is_needed(self) -> None:
        for name in self.query():
            with pytest.raises(InvalidSignature):
                self.signer.verify(
                    "GET", "a/b.jpg", {key: value for key, value in self.query().items() if key != name}, now=NOW
                )

    def test_method_key_and_secret_are_signed(self) -> None:
        for method, key, signer in (
            ("PUT", "a/b.jpg", self.signer),
            ("GET", "a/c.jpg", self.signer),
            ("GET", "a/b.jpg", UrlSigner(b"another secret of 16")),
        ):
            with pytest.raises(InvalidSignature):
                signer.verify(method, key, self.query(), now=NOW)

    def test_no_character_moves_from_one_part_to_the_next(self) -> None:
        query = self.query(disposition="attachment")
        moved = query | {"expires": query["expires"] + "a", "disposition": "ttachment"}
        with pytest.raises(InvalidSignature):
            self.signer.verify("GET", "a/b.jpg", moved, now=NOW)

    def test_expiry(self) -> None:
        self.signer.verify("GET", "a/b.jpg", self.query(), now=NOW + timedelta(seconds=59))
        with pytest.raises(SignatureExpired):
            self.signer.verify("GET", "a/b.jpg", self.query(), now=NOW + timedelta(seconds=60))

    def test_a_short_secret_is_refused(self) -> None:
        with pytest.raises(ValueError, match="16 bytes"):
            UrlSigner(b"short")


ENDPOINTS = [
    None,
    "https://s3.example.com",
    "http://127.0.0.1:9000",
    "https://minio.example.com:8443",
    "http://storage.example.com:80",
    "https://storage.example.com:443",
    "https://gateway.example.com/behind/a/path",
    "http://[::1]:9000",
]


@pytest.fixture(scope="module")
def oracle() -> botocore.session.Session:
    """One for all: it keeps the service descriptions that it has read."""
    return botocore.session.Session()


class TestS3Presigner:
    """botocore says what is right."""

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[datetime]:
        """botocore's time: whatever the list's last item is."""
        times = [NOW]
        monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: times[-1].replace(tzinfo=None))
        return times

    @pytest.fixture(params=[None, "FwoGZXIvYXdzE//a+token/with=odd=="], ids=["key", "token"])
    def credentials(self, request: pytest.FixtureRequest) -> S3Credentials:
        return S3Credentials("AKIA/EXAMPLE+", "secret/with+odd=characters", request.param)

    @pytest.fixture(params=["us-east-1", "eu-central-1"])
    def region(self, request: pytest.FixtureRequest) -> str:
        name: str = request.param
        return name

    @pytest.fixture(params=ENDPOINTS)
    def client(
        self,
        request: pytest.FixtureRequest,
        oracle: botocore.session.Session,
        credentials: S3Credentials,
        region: str,
    ) -> Any:
        return oracle.create_client(
            "s3",
            region_name=region,
            endpoint_url=request.param,
            aws_access_key_id=credentials.access_key,
            aws_secret_access_key=credentials.secret_key,
            aws_session_token=credentials.session_token,
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )

    @pytest.fixture
    def ours(self, client: Any, credentials: S3Credentials, region: str) -> S3Presigner:
        return S3Presigner(
            endpoint_url=client.meta.endpoint_url, bucket="my-bucket", region=region, credentials=credentials
        )

    def test_the_same_bytes_as_botocore(self, ours: S3Presigner, client: Any, clock: list[datetime]) -> None:
        source = random.Random(client.meta.endpoint_url)
        for filename in FILENAMES:
            key = random_key(source)
            disposition = disposition_for(key, inline=source.random() < 0.5)
            lifetime = timedelta(seconds=source.randint(2, 604_800))
            moment = NOW + timedelta(seconds=source.randint(0, 10**8))
            period = SigningWindow(lifetime=lifetime, window=timedelta(seconds=1)).at(moment)
            clock.append(moment)

            parameters = {"Bucket": "my-bucket", "Key": key}
            if filename or disposition == "attachment":
                parameters["ResponseContentDisposition"] = content_disposition(disposition, filename)
            expected = client.generate_presigned_url("get_object", parameters, ExpiresIn=int(lifetime.total_seconds()))
            assert ours.url(key, period=period, disposition=disposition, filename=filename) == expected
        assert urlsplit(expected).path.endswith(f"/my-bucket/{key}")

    def test_a_put_has_the_same_bytes_as_botocores(self, ours: S3Presigner, client: Any, clock: list[datetime]) -> None:
        source = random.Random(client.meta.endpoint_url)
        for upload_id in ("0f" * 16, "2~bVSoDcl-l8aiS1ley_deOzHSzeu9Sn5", "odd/+= &.id~"):
            key = random_key(source)
            moment = NOW + timedelta(seconds=source.uniform(0, 10**8))
            lifetime = timedelta(seconds=source.randint(1, 604_800))
            period = Period.starting(moment, lifetime)
            size, number = source.randint(0, 5 * 1024**3), source.randint(1, 10_000)
            clock.append(moment)

            sized = {"Bucket": "my-bucket", "Key": key, "ContentLength": size}
            put = sized | {"ContentType": content_type_of(key)}
            part = sized | {"PartNumber": number, "UploadId": upload_id}  # in the order of the URL
            seconds = int(lifetime.total_seconds())
            assert ours.put_url(
                key, size=size, content_type=content_type_of(key), period=period
            ) == client.generate_presigned_url("put_object", put, ExpiresIn=seconds)
            assert ours.part_url(key, upload_id, number, size=size, period=period) == client.generate_presigned_url(
                "upload_part", part, ExpiresIn=seconds
            )

    def test_what_the_urls_of_a_period_share_is_theirs_alone(
        self, ours: S3Presigner, client: Any, clock: list[datetime]
    ) -> None:
        """Equal periods are one, though each URL has its own; another end or another second is another one."""
        for seconds, lifetime in ((0, 900), (0, 900), (0, 60), (1, 60), (86_400, 60), (0, 900)):
            clock.append(NOW + timedelta(seconds=seconds))
            for number in (1, 2):
                asked = {"Bucket": "my-bucket", "Key": "a/b.bin", "ContentLength": number}
                asked |= {"PartNumber": number, "UploadId": "id"}
                period = Period.starting(clock[-1], timedelta(seconds=lifetime))
                assert ours.part_url("a/b.bin", "id", number, size=number, period=period) == (
                    client.generate_presigned_url("upload_part", asked, ExpiresIn=lifetime)
                )

    def test_a_put_does_not_change_what_a_get_looks_like(self) -> None:
        ours = S3Presigner(
            endpoint_url="https://s3.example.com", bucket="b", region="r", credentials=S3Credentials("a", "s")
        )
        period = SigningWindow().at(NOW)
        before = ours.url("a.jpg", period=period, disposition="inline", filename=None)
        ours.put_url("a.jpg", size=1, content_type="image/jpeg", period=period)
        assert ours.url("a.jpg", period=period, disposition="inline", filename=None) == before


class TestContentDisposition:
    @pytest.mark.parametrize("filename", [name for name in FILENAMES if name])
    def test_is_one_printable_ascii_line(self, filename: str) -> None:
        value = content_disposition("attachment", filename)
        assert value.startswith("attachment; filename=")
        assert value.isascii()
        assert value.isprintable()
        assert value.partition("; filename*")[0].count('"') == 2

    @pytest.mark.parametrize(
        ("filename", "expected"),
        [
            (None, "inline"),
            ("", "inline"),
            ("..", "inline"),
            ("a b (1).jpg", 'inline; filename="a b (1).jpg"'),
            ("é.jpg", "inline; filename=\"_.jpg\"; filename*=UTF-8''%C3%A9.jpg"),
            ("50%.jpg", "inline; filename=\"50_.jpg\"; filename*=UTF-8''50%25.jpg"),
            ("C:\\x\\y.jpg", "inline; filename=\"C__x_y.jpg\"; filename*=UTF-8''C%3A_x_y.jpg"),
            ("../x.jpg", 'inline; filename="_x.jpg"'),
        ],
    )
    def test_values(self, filename: str | None, expected: str) -> None:
        assert content_disposition("inline", filename) == expected

    def test_a_long_name_keeps_its_extension(self) -> None:
        assert safe_filename("x" * 500 + ".jpeg") == "x" * (MAX_FILENAME_CHARACTERS - 5) + ".jpeg"
        assert safe_filename("x" * 500) == "x" * MAX_FILENAME_CHARACTERS

    def test_only_what_cannot_run_is_shown(self) -> None:
        shown = [disposition_for(f"a.{extension}", inline=True) for extension in ("jpg", "mp4", "mp3", "pdf")]
        kept = [disposition_for(f"a.{extension}", inline=True) for extension in ("json", "bin")]
        assert (shown, kept) == (["inline"] * 4, ["attachment"] * 2)
        assert disposition_for("a.jpg", inline=False) == "attachment"
