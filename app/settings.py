"""What the deployment decides: read once from `HEIRLOOM_*`, frozen, and the only reader of the environment."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from storage.base import MAX_OBJECT_BYTES
from storage.keys import DEFAULT_KEY_TEMPLATE, KeyTemplate

KIB = 1024
MIB = 1024 * KIB
PREFIX = "HEIRLOOM_"
WHOLE_NUMBER = re.compile(r"-?[0-9]{1,20}")
FRACTION = re.compile(r"0(\.[0-9]{1,9})?|1(\.0{1,9})?")
RATE = re.compile(r"([1-9][0-9]{0,6})/([1-9][0-9]{0,4})")
SECRET_KEY_LENGTH = 32  # characters; 256 bits of hex halves make 64, a pass phrase needs at least this


@dataclass(frozen=True, slots=True)
class Rate:
    """So many in so many seconds, all at once if need be."""

    count: int
    seconds: int

    @property
    def interval(self) -> float:
        return self.seconds / self.count

    def __str__(self) -> str:
        return f"{self.count}/{self.seconds}"


class SettingsError(Exception):
    """A sentence that names the variable at fault. The start stops with it."""


def setting(read: Callable[[str], Any], default: Any, *, doc: str, secret: bool = False) -> Any:
    """A field read from `HEIRLOOM_<NAME>`; `read` raises ValueError with what is wrong with the text."""
    return field(default=default, repr=not secret, metadata={"read": read, "doc": doc, "secret": secret})


def _text(raw: str) -> str:
    return raw


def _path(raw: str) -> Path:
    try:
        return Path(raw).expanduser().absolute()
    except RuntimeError as error:
        raise ValueError("names a user who has no home folder here") from error


def _between(low: int, high: int) -> Callable[[str], int]:
    def read(raw: str) -> int:
        # Not by int() alone, which takes "1_000" and " ٣"; nor of any length, of which it has a limit of its own.
        if not WHOLE_NUMBER.fullmatch(raw) or not low <= int(raw) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(raw)

    return read


def _fraction(raw: str) -> float:
    if not FRACTION.fullmatch(raw):
        raise ValueError("must be a number from 0 to 1, such as 0.05")
    return float(raw)


def _seconds(low: int, high: int) -> Callable[[str], timedelta]:
    number = _between(low, high)
    return lambda raw: timedelta(seconds=number(raw))


def _rate(raw: str) -> Rate:
    match = RATE.fullmatch(raw)
    if match is None:
        raise ValueError("must be a number and the seconds in which it is allowed, such as 60/60")
    return Rate(int(match[1]), int(match[2]))


def _networks(raw: str) -> tuple[str, ...]:
    try:
        return tuple(str(ip_network(item.strip())) for item in raw.split(",") if item.strip())
    except ValueError as error:
        raise ValueError("must be addresses or networks such as 10.0.0.0/8, separated by commas") from error


def _one_of(*choices: str) -> Callable[[str], str]:
    def read(raw: str) -> str:
        if raw not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return raw

    return read


def _url(*schemes: str) -> Callable[[str], str]:
    def read(raw: str) -> str:
        try:
            parts = urlsplit(raw)
            _ = parts.port
        except ValueError as error:  # whose message quotes the URL, and with it perhaps a password
            raise ValueError("is no URL") from error
        if parts.scheme not in schemes or not (parts.netloc or parts.scheme.startswith("postgres")):
            raise ValueError(f"must be a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        return raw.rstrip("/")

    return read


def _key_template(raw: str) -> str:
    KeyTemplate(raw)
    return raw


def _secret(raw: str) -> str:
    if len(raw) < SECRET_KEY_LENGTH:
        raise ValueError(f"must have at least {SECRET_KEY_LENGTH} characters")
    return raw


def _origins(raw: str) -> tuple[str, ...]:
    return tuple(_origin(item.strip()) for item in raw.split(",") if item.strip())


def _origin(raw: str) -> str:
    origin = _url("http", "https")(raw)
    parts = urlsplit(origin)
    if origin != f"{parts.scheme}://{parts.netloc}":
        raise ValueError("must be origins such as https://example.org, with nothing behind the host and port")
    return origin.lower()  # as browsers send it


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Sizes are in bytes, durations are timedeltas. The README's table is checked against `doc`."""

    host: str = setting(_text, "127.0.0.1", doc="address to listen on")
    port: int = setting(_between(1, 65535), 8000, doc="port to listen on")
    workers: int = setting(_between(1, 128), 1, doc="API processes of `serve`, which share the port")
    public_url: str = setting(
        _url("http", "https"), "", doc="where clients reach the server; `http://HOST:PORT` unless set"
    )
    data_dir: Path = setting(
        _path, Path("data"), doc="embedded database, local files, scratch; relative to the working folder"
    )
    database_url: str | None = setting(
        _url("postgres", "postgresql"), None, secret=True, doc="PostgreSQL 15 or newer; left out, an embedded one in "
        "the data folder"
    )  # fmt: skip
    database_pool: int = setting(_between(2, 500), 10, doc="connections a process holds at most")
    redis_url: str | None = setting(
        _url("redis", "rediss"), None, secret=True, doc="Redis that several processes share for rate limits, and that "
        "other services hear of media from; left out, none"
    )  # fmt: skip
    pg_bin: Path | None = setting(
        _path, None, doc="folder with `initdb` and `postgres` for the embedded database, instead of the wheel's"
    )
    secret_key: str = setting(
        _secret, "", doc="signs tokens and URLs, at least 32 characters; made and kept in the data folder when the "
        "database is the embedded one, required otherwise", secret=True
    )  # fmt: skip
    storage: str = setting(_one_of("local", "s3"), "local", doc="`local` files in the data folder, or `s3`")
    s3_bucket: str | None = setting(
        _text, None, doc="bucket of Heirloom's own, required with `s3`; created where that is allowed"
    )
    s3_endpoint_url: str | None = setting(_url("http", "https"), None, doc="for MinIO, R2, Ceph …; left out, AWS")
    s3_region: str = setting(_text, "us-east-1", doc="region of the bucket")
    s3_public_url: str | None = setting(
        _url("http", "https"), None, doc="where clients reach the S3, if not at the endpoint's URL"
    )
    storage_deadline: timedelta = setting(
        _seconds(1, 600), timedelta(seconds=30), doc="seconds that the S3 is tried again before an operation gives up; "
        "while a large file is sent, for each of its chunks"
    )  # fmt: skip
    key_template: str = setting(_key_template, DEFAULT_KEY_TEMPLATE, doc="storage key of media that belongs somewhere")
    url_lifetime: timedelta = setting(
        _seconds(60, 604_800), timedelta(hours=1), doc="seconds that a signed URL is good for; it is given out with at "
        "least half of them left"
    )  # fmt: skip
    upload_url_lifetime: timedelta = setting(
        _seconds(10, 604_800), timedelta(minutes=15), doc="seconds that a signed URL for an upload is good for"
    )
    upload_session_lifetime: timedelta = setting(
        _seconds(10, 604_800), timedelta(hours=24), doc="seconds in which a direct upload has to be completed"
    )
    access_token_lifetime: timedelta = setting(
        _seconds(30, 86_400), timedelta(minutes=15), doc="seconds that an access token is good for"
    )
    session_lifetime: timedelta = setting(
        _seconds(3600, 31_536_000), timedelta(days=30), doc="seconds after its last refresh until a session ends"
    )
    allowed_origins: tuple[str, ...] = setting(
        _origins, (), doc="other origins whose pages may call the API and open sockets, separated by commas"
    )
    trusted_proxies: tuple[str, ...] = setting(
        _networks, (), doc="addresses or networks whose X-Forwarded-For and X-Forwarded-Proto are believed, separated "
        "by commas"
    )  # fmt: skip
    jwks_url: str | None = setting(
        _url("http", "https"), None, doc="where an outside issuer of access tokens, such as an OpenID provider, "
        "has its keys (a JWK set)"
    )  # fmt: skip
    token_issuer: str | None = setting(
        _text, None, doc="`iss` of its tokens, to the letter; required with `HEIRLOOM_JWKS_URL`"
    )
    token_audience: str | None = setting(
        _text, None, doc="`aud` that its tokens must have; required with `HEIRLOOM_JWKS_URL`"
    )
    rate_limits: str = setting(_one_of("on", "off"), "on", doc="`on`, or `off` where something before the server does")
    request_rate: Rate = setting(
        _rate,
        Rate(3000, 60),
        doc="GraphQL operations in so many seconds, of a user, or of an address without one",
    )
    file_rate: Rate = setting(
        _rate, Rate(12_000, 60), doc="requests for files of local storage and pages in so many seconds, of an address"
    )
    upload_rate: Rate = setting(_rate, Rate(3000, 600), doc="files that a user may upload in so many seconds")
    sign_in_rate: Rate = setting(
        _rate, Rate(20, 600), doc="new accounts and failed sign-ins in so many seconds, of an address; of an account "
        "five times as many failed ones"
    )  # fmt: skip
    max_open: int = setting(
        _between(1, 100_000), 100, doc="sockets and streams that a user, or an address without one, may keep open at "
        "once, in each process; of operations over sockets ten times as many"
    )  # fmt: skip
    max_file_bytes: int = setting(_between(1, 5 * 1024**3), 512 * MIB, doc="one file in a GraphQL upload")
    max_files: int = setting(_between(1, 1000), 50, doc="files in one GraphQL upload")
    max_request_bytes: int = setting(_between(1024, 50 * 1024**3), 2048 * MIB, doc="one GraphQL upload in all")
    max_field_bytes: int = setting(
        _between(1024, 64 * MIB), MIB, doc="one text field of an upload, and a GraphQL request without files"
    )
    max_upload_bytes: int = setting(
        _between(1, MAX_OBJECT_BYTES), MAX_OBJECT_BYTES, doc="one file uploaded straight into the storage"
    )
    quota_bytes: int = setting(
        _between(0, 2**53 - 1), 0, doc="bytes that a new account may keep, trash and variants included; 0 is no limit"
    )
    trash_retention: timedelta = setting(
        _seconds(0, 315_360_000), timedelta(days=30), doc="seconds after which what is in the trash is purged"
    )
    event_retention: timedelta = setting(
        _seconds(3600, 315_360_000), timedelta(days=30), doc="seconds that events are kept: for so long a subscription "
        "can be taken up again by its cursor"
    )  # fmt: skip
    orphan_grace: timedelta = setting(
        _seconds(0, 31_536_000), timedelta(hours=24), doc="seconds that a stored object may be without a row: longer "
        "than any upload takes"
    )  # fmt: skip
    max_page: int = setting(_between(1, 1000), 100, doc="items that a list gives at once")
    max_depth: int = setting(_between(3, 100), 12, doc="fields within each other in a GraphQL operation")
    max_aliases: int = setting(_between(0, 1000), 50, doc="fields of a GraphQL operation that are given other names")
    max_cost: int = setting(
        _between(100, 10_000_000), 25_000, doc="cost of a GraphQL request: a field of an object is 1, lists multiply; "
        "100 media with all that they have are 17,000"
    )  # fmt: skip
    cached_rows: int = setting(
        _between(0, 10_000_000), 10_000, doc="rows that each process keeps of what was read last, up to 6 KB each; 0 "
        "keeps none"
    )  # fmt: skip
    trusted_documents: Path | None = setting(
        _path, None, doc="manifest of documents that clients name by an id, or a folder of them"
    )
    trusted_only: str = setting(
        _one_of("on", "off"), "off", doc="`on`: no other documents are executed, introspection neither"
    )
    executor: str = setting(
        _one_of("plain", "stock"), "plain", doc="`plain` reads plain fields of a GraphQL answer by itself; `stock` "
        "leaves all of them to graphql-core: slower, with the same answers, for the case of a doubt"
    )  # fmt: skip
    max_pixels: int = setting(_between(1, 2_000_000_000), 100_000_000, doc="width × height of an image")
    processes: int = setting(_between(0, 128), 0, doc="decoders that a worker runs; 0 is one a core")
    processing_timeout: timedelta = setting(
        _seconds(1, 3600), timedelta(seconds=60), doc="seconds that one file may take to decode; a film may take as "
        "long without getting on"
    )  # fmt: skip
    film_timeout: timedelta = setting(
        _seconds(1, 604_800), timedelta(hours=4), doc="seconds that one film may take in all"
    )
    processing_memory: int = setting(
        _between(256 * MIB, 64 * 1024**3), 2048 * MIB, doc="bytes of memory of one decoder"
    )
    processing_attempts: int = setting(
        _between(1, 20), 3, doc="times that a file which kills its decoder, or finds no storage, is tried"
    )
    log_level: str = setting(
        _one_of("debug", "info", "warning", "error"), "info", doc="`debug`, `info`, `warning` or `error`"
    )
    log_format: str = setting(
        _one_of("auto", "json", "text"), "auto", doc="`json`, or `text` for people; `auto` is text on a terminal alone"
    )

    metrics_token: str | None = setting(
        _secret, None, secret=True, doc="what reads `/metrics`, as `Authorization: Bearer …`, at least 32 characters; "
        "left out, only this machine may, where `HEIRLOOM_PUBLIC_URL` is on it"
    )  # fmt: skip
    worker_metrics_port: int = setting(
        _between(0, 65535), 0, doc="port on which a worker of its own has its `/metrics`, at `HEIRLOOM_HOST`; 0 is none"
    )
    otlp_endpoint: str | None = setting(
        _url("http", "https"), None, secret=True, doc="OpenTelemetry collector (OTLP over HTTP) that traces are sent "
        "to, such as `http://127.0.0.1:4318`; left out, there are none"
    )  # fmt: skip
    trace_ratio: float = setting(_fraction, 1.0, doc="part of the requests that are traced, from 0 to 1")
    trace_callers: tuple[str, ...] = setting(
        _networks, (), doc="addresses or networks of gateways whose `traceparent` is gone on with, separated by "
        "commas; they decide what is traced"
    )  # fmt: skip

    @property
    def laptop(self) -> bool:
        """Whether the database is the embedded one, and so everything is in the data folder."""
        return self.database_url is None

    @property
    def scratch_dir(self) -> Path:
        return self.data_dir / "scratch"

    @property
    def metrics_dir(self) -> Path:
        return self.data_dir / "metrics"

    @property
    def files_dir(self) -> Path:
        return self.data_dir / "files"


def load(environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Settings from the environment; an empty variable counts as absent.

    Raises SettingsError with a sentence that names the variable.
    """
    environ = os.environ if environ is None else environ
    values = {f.name: value for f in fields(Settings) if (value := _read(environ, f)) is not None}
    values.update(overrides)
    return _completed(values)


def _variable(setting: Field[Any]) -> str:
    return PREFIX + setting.name.upper()


def _read(environ: Mapping[str, str], setting: Field[Any]) -> Any:
    variable = _variable(setting)
    raw = environ.get(variable, "").strip()
    try:
        return setting.metadata["read"](raw) if raw else None
    except ValueError as error:
        # A start that fails is often pasted into a chat: the message must not carry a key or a password.
        shown = "not shown" if setting.metadata["secret"] else repr(raw)
        raise SettingsError(f"{variable}: {error} (it is {shown}).") from error


def _completed(values: dict[str, Any]) -> Settings:
    settings = Settings(**values)
    values["data_dir"] = settings.data_dir.absolute()
    if settings.storage == "s3" and not settings.s3_bucket:
        raise SettingsError("HEIRLOOM_S3_BUCKET must be set when HEIRLOOM_STORAGE is s3.")
    if not settings.public_url:
        host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104 - compared, not bound
        values["public_url"] = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
    if not settings.secret_key:
        if not settings.laptop:
            raise SettingsError("HEIRLOOM_SECRET_KEY must be set when HEIRLOOM_DATABASE_URL is.")
        kept = values["data_dir"] / "secret_key"
        try:
            values["secret_key"] = _kept_secret(kept)
        except (OSError, ValueError) as error:
            raise SettingsError(f"HEIRLOOM_DATA_DIR: {kept} can't be made or read: {error}.") from error
    return Settings(**values)


def _kept_secret(path: Path) -> str:
    """The key in the data folder; the first of several processes that start at once makes it."""
    made = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made.touch(mode=0o600)
        with made.open("w") as file:
            file.write(secrets.token_hex(SECRET_KEY_LENGTH))
            file.flush()
            os.fsync(file.fileno())  # else a power cut could leave a name without a key
        try:
            # A link appears whole or not at all, and never replaces the key that another process made.
            path.hardlink_to(made)
        except FileExistsError:
            pass
        finally:
            made.unlink()
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the key is in use from now on
        finally:
            os.close(folder)
    return _secret(path.read_text().strip())


def table() -> str:
    """The settings as rows of a Markdown table, as the README has them."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for each in fields(Settings):
        default = "" if each.default in {None, "", ()} else f"`{_written(each.default)}`"
        rows.append(f"| `{_variable(each)}` | {default} | {each.metadata['doc']} |")
    return "\n".join(rows)


def _written(value: object) -> str:
    return f"{value.total_seconds():.0f}" if isinstance(value, timedelta) else str(value)
