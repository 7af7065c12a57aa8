"""What the deployment decides: every variable, well and badly written."""

from __future__ import annotations

import dataclasses
import stat
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.settings import KIB, MIB, Rate, Settings, SettingsError, load, table
from storage.keys import DEFAULT_KEY_TEMPLATE
from tests.server import command, environment

PROJECT = Path(__file__).parents[2]
SECRET = "correct horse battery staple, and then some"
PASSWORD = "hunter2"
DSN = f"postgresql://heirloom:{PASSWORD}@db.example.org:5432/heirloom"
NUMBER = "must be a whole number from {} to {}"
URL = "must be a URL that begins with {}"
WEB = URL.format("http:// or https://")
NETWORKS = "must be addresses or networks such as 10.0.0.0/8, separated by commas"
RATE = "must be a number and the seconds in which it is allowed, such as 60/60"


def read(folder: Path, **variables: str) -> Settings:
    named = {f"HEIRLOOM_{name.upper()}": value for name, value in variables.items()}
    return load({"HEIRLOOM_DATA_DIR": str(folder), **named})


def test_nothing_set_is_the_laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load({"HEIRLOOM_PORT": " ", "PATH": "/bin"})
    assert settings == Settings(
        host="127.0.0.1",
        port=8000,
        public_url="http://127.0.0.1:8000",
        data_dir=tmp_path / "data",
        database_url=None,
        database_pool=10,
        pg_bin=None,
        secret_key=(tmp_path / "data" / "secret_key").read_text(),
        storage="local",
        s3_bucket=None,
        s3_endpoint_url=None,
        s3_region="us-east-1",
        key_template=DEFAULT_KEY_TEMPLATE,
        url_lifetime=timedelta(hours=1),
        access_token_lifetime=timedelta(minutes=15),
        session_lifetime=timedelta(days=30),
        allowed_origins=(),
        max_open=100,
        max_file_bytes=512 * MIB,
        max_files=50,
        max_request_bytes=2048 * MIB,
        max_field_bytes=MIB,
        max_page=100,
        max_pixels=100_000_000,
        processes=0,
        processing_timeout=timedelta(seconds=60),
        film_timeout=timedelta(hours=4),
        processing_memory=2048 * MIB,
        processing_attempts=3,
    )
    assert settings.laptop


GOOD: list[tuple[str, str, Any]] = [
    ("host", "0.0.0.0", "0.0.0.0"),
    ("port", "65535", 65535),
    ("workers", "128", 128),
    ("public_url", "https://photos.example.org/", "https://photos.example.org"),
    ("database_url", DSN, DSN),
    ("database_url", "postgres:///heirloom?host=/run/postgresql", "postgres:///heirloom?host=/run/postgresql"),
    ("database_pool", "2", 2),
    ("redis_url", f"rediss://:{PASSWORD}@redis.example.org/1", f"rediss://:{PASSWORD}@redis.example.org/1"),
    ("pg_bin", "/usr/lib/postgresql/15/bin", Path("/usr/lib/postgresql/15/bin")),
    ("secret_key", SECRET, SECRET),
    ("storage", "local", "local"),
    ("s3_bucket", "photos", "photos"),
    ("s3_endpoint_url", "http://127.0.0.1:9000", "http://127.0.0.1:9000"),
    ("s3_region", "eu-central-1", "eu-central-1"),
    ("s3_public_url", "https://media.example.org/", "https://media.example.org"),
    ("storage_deadline", "600", timedelta(minutes=10)),
    ("key_template", "{entity_id}/{filename}", "{entity_id}/{filename}"),
    ("url_lifetime", "60", timedelta(seconds=60)),
    ("upload_url_lifetime", "10", timedelta(seconds=10)),
    ("upload_session_lifetime", "604800", timedelta(days=7)),
    ("access_token_lifetime", "86400", timedelta(days=1)),
    ("session_lifetime", "3600", timedelta(hours=1)),
    (
        "allowed_origins",
        "https://a.example.org, http://LOCALHOST:3000/,",
        ("https://a.example.org", "http://localhost:3000"),
    ),
    ("trusted_proxies", "127.0.0.1, fd00::/8,", ("127.0.0.1/32", "fd00::/8")),
    ("jwks_url", "https://id.example.org/keys", "https://id.example.org/keys"),
    ("token_issuer", "https://id.example.org/", "https://id.example.org/"),
    ("token_audience", "heirloom", "heirloom"),
    ("rate_limits", "off", "off"),
    ("request_rate", "1/99999", Rate(1, 99_999)),
    ("file_rate", "9999999/1", Rate(9_999_999, 1)),
    ("upload_rate", "60/60", Rate(60, 60)),
    ("sign_in_rate", "5/900", Rate(5, 900)),
    ("max_open", "100000", 100_000),
    ("max_file_bytes", "1", 1),
    ("max_files", "1000", 1000),
    ("max_request_bytes", "1024", KIB),
    ("max_field_bytes", "67108864", 64 * MIB),
    ("max_upload_bytes", "5497558138880", 5 * 1024**4),
    ("quota_bytes", "9007199254740991", 2**53 - 1),
    ("trash_retention", "0", timedelta(0)),
    ("event_retention", "604800", timedelta(days=7)),
    ("orphan_grace", "31536000", timedelta(days=365)),
    ("max_page", "1000", 1000),
    ("max_depth", "3", 3),
    ("max_aliases", "0", 0),
    ("max_cost", "10000000", 10_000_000),
    ("cached_rows", "0", 0),
    ("trusted_documents", "/etc/heirloom/documents.json", Path("/etc/heirloom/documents.json")),
    ("trusted_only", "on", "on"),
    ("executor", "stock", "stock"),
    ("max_pixels", "2000000000", 2_000_000_000),
    ("processes", "0", 0),
    ("processing_timeout", "1", timedelta(seconds=1)),
    ("film_timeout", "7200", timedelta(hours=2)),
    ("processing_memory", "268435456", 256 * MIB),
    ("processing_attempts", "20", 20),
    ("log_level", "debug", "debug"),
    ("log_format", "json", "json"),
    ("metrics_token", SECRET, SECRET),
    ("worker_metrics_port", "9100", 9100),
    ("otlp_endpoint", "https://otlp.example.org/", "https://otlp.example.org"),
    ("trace_ratio", "0.05", 0.05),
    ("trace_callers", "10.0.0.0/8", ("10.0.0.0/8",)),
]

BAD: list[tuple[str, str, str]] = [
    *(
        ("port", raw, NUMBER.format(1, 65535))
        for raw in ("0", "65536", "-1", "--1", "80.0", "1_0", "٣", "http", "9" * 30)
    ),
    *(("workers", raw, NUMBER.format(1, 128)) for raw in ("0", "129")),
    *(("public_url", raw, WEB) for raw in ("example.org", "ftp://example.org", "https://", "//example.org")),
    ("public_url", "http://[::1", "is no URL"),
    ("s3_endpoint_url", "http://minio:port", "is no URL"),
    ("data_dir", "~nobody-of-that-name/data", "names a user who has no home folder here"),
    ("pg_bin", "~nobody-of-that-name/bin", "names a user who has no home folder here"),
    ("database_pool", "1", NUMBER.format(2, 500)),
    ("database_pool", "501", NUMBER.format(2, 500)),
    ("storage", "S3", "must be one of local, s3"),
    ("s3_public_url", "media.example.org", WEB),
    *(("storage_deadline", raw, NUMBER.format(1, 600)) for raw in ("0", "601")),
    *(("upload_url_lifetime", raw, NUMBER.format(10, 604_800)) for raw in ("9", "604801")),
    *(("upload_session_lifetime", raw, NUMBER.format(10, 604_800)) for raw in ("9", "604801")),
    *(("max_upload_bytes", raw, NUMBER.format(1, 5 * 1024**4)) for raw in ("0", "5497558138881")),
    *(("quota_bytes", raw, NUMBER.format(0, 2**53 - 1)) for raw in ("-1", "9007199254740992")),
    *(("trash_retention", raw, NUMBER.format(0, 315_360_000)) for raw in ("-1", "315360001")),
    *(("event_retention", raw, NUMBER.format(3600, 315_360_000)) for raw in ("3599", "315360001", "30d")),
    *(("orphan_grace", raw, NUMBER.format(0, 31_536_000)) for raw in ("-1", "31536001")),
    ("storage", "disk", "must be one of local, s3"),
    ("s3_endpoint_url", "minio:9000", WEB),
    ("key_template", "{entity_id}", "the key template must end in the segment {filename}, and name it only there"),
    (
        "key_template",
        "{owner}/{filename}",
        "the key template has no field 'owner': it knows entity_type, media_type, entity_id, filename, "
        "YYYY-MM, YYYY, MM, DD",
    ),
    *(("url_lifetime", raw, NUMBER.format(60, 604_800)) for raw in ("59", "604801", "1h")),
    *(("access_token_lifetime", raw, NUMBER.format(30, 86_400)) for raw in ("29", "86401")),
    *(("session_lifetime", raw, NUMBER.format(3600, 31_536_000)) for raw in ("3599", "31536001")),
    ("allowed_origins", "*", WEB),
    ("allowed_origins", "https://a.example.org,b.example.org", WEB),
    (
        "allowed_origins",
        "https://a.example.org/app",
        "must be origins such as https://example.org, with nothing behind the host and port",
    ),
    *(("trusted_proxies", raw, NETWORKS) for raw in ("*", "localhost", "10.0.0.1/8", "10.0.0.0/33")),
    ("jwks_url", "id.example.org/keys", WEB),
    ("rate_limits", "no", "must be one of on, off"),
    *(("request_rate", raw, RATE) for raw in ("60", "0/60", "60/0", "60/60s", "1_0/60", "99999999/1", "1/100000")),
    *((name, "off", RATE) for name in ("file_rate", "upload_rate", "sign_in_rate")),
    *(("max_open", raw, NUMBER.format(1, 100_000)) for raw in ("0", "100001")),
    *(("max_file_bytes", raw, NUMBER.format(1, 5 * 1024**3)) for raw in ("0", "5368709121", "5GB")),
    *(("max_files", raw, NUMBER.format(1, 1000)) for raw in ("0", "1001")),
    *(("max_request_bytes", raw, NUMBER.format(1024, 50 * 1024**3)) for raw in ("1023", "53687091201")),
    *(("max_field_bytes", raw, NUMBER.format(1024, 64 * MIB)) for raw in ("1023", "67108865")),
    *(("max_page", raw, NUMBER.format(1, 1000)) for raw in ("0", "1001")),
    *(("max_depth", raw, NUMBER.format(3, 100)) for raw in ("2", "101")),
    *(("max_aliases", raw, NUMBER.format(0, 1000)) for raw in ("-1", "1001")),
    *(("max_cost", raw, NUMBER.format(100, 10_000_000)) for raw in ("99", "10000001")),
    *(("cached_rows", raw, NUMBER.format(0, 10_000_000)) for raw in ("-1", "10000001")),
    ("trusted_documents", "~nobody-of-that-name/documents", "names a user who has no home folder here"),
    *(("trusted_only", raw, "must be one of on, off") for raw in ("true", "1", "ON")),
    *(("executor", raw, "must be one of plain, stock") for raw in ("fast", "STOCK")),
    *(("max_pixels", raw, NUMBER.format(1, 2_000_000_000)) for raw in ("0", "2000000001")),
    *(("processes", raw, NUMBER.format(0, 128)) for raw in ("-1", "129")),
    *(("processing_timeout", raw, NUMBER.format(1, 3600)) for raw in ("0", "3601")),
    *(("film_timeout", raw, NUMBER.format(1, 604_800)) for raw in ("0", "604801")),
    *(("processing_memory", raw, NUMBER.format(256 * MIB, 64 * 1024**3)) for raw in ("268435455", "68719476737")),
    *(("processing_attempts", raw, NUMBER.format(1, 20)) for raw in ("0", "21")),
    ("log_level", "INFO", "must be one of debug, info, warning, error"),
    ("log_format", "xml", "must be one of auto, json, text"),
    *(("worker_metrics_port", raw, NUMBER.format(0, 65535)) for raw in ("-1", "65536")),
    *(
        ("trace_ratio", raw, "must be a number from 0 to 1, such as 0.05")
        for raw in ("-0", "1.5", "2", "nan", "5%", ".5", "1e-3", "0_1")
    ),
    ("trace_callers", "gateway", NETWORKS),
]

SECRETS: list[tuple[str, str, str]] = [
    ("secret_key", PASSWORD, "must have at least 32 characters"),
    ("metrics_token", PASSWORD, "must have at least 32 characters"),
    ("otlp_endpoint", f"grpc://:{PASSWORD}@otlp:4317", WEB),
    ("redis_url", f"http://:{PASSWORD}@redis/0", URL.format("redis:// or rediss://")),
    ("database_url", f"mysql://root:{PASSWORD}@db/heirloom", URL.format("postgres:// or postgresql://")),
    ("database_url", f"postgresql://root:{PASSWORD}/@db:5432/heirloom", "is no URL"),  # an @ or / not quoted
    ("database_url", f"postgresql://root:{PASSWORD}℀@db/heirloom", "is no URL"),
    ("database_url", f"postgresql://root:{PASSWORD}@[db/heirloom", "is no URL"),
]


@pytest.mark.parametrize(("name", "raw", "value"), GOOD)
def test_a_variable_is_read(tmp_path: Path, name: str, raw: str, value: Any) -> None:
    settings = read(tmp_path, **{"secret_key": SECRET, name: f" {raw} "})
    assert getattr(settings, name) == value
    others = {field.name for field in dataclasses.fields(Settings)} - {name, "secret_key", "data_dir", "public_url"}
    plain = read(tmp_path, secret_key=SECRET)
    assert all(getattr(settings, other) == getattr(plain, other) for other in others)


@pytest.mark.parametrize(("name", "raw", "reason"), BAD)
def test_what_is_wrong_with_a_variable_is_said(tmp_path: Path, name: str, raw: str, reason: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read(tmp_path, **{"secret_key": SECRET, name: raw})
    assert str(refused.value) == f"HEIRLOOM_{name.upper()}: {reason} (it is {raw!r})."
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "raw", "reason"), SECRETS)
def test_a_secret_is_not_shown(tmp_path: Path, name: str, raw: str, reason: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read(tmp_path, **{"secret_key": SECRET, name: raw})
    assert str(refused.value) == f"HEIRLOOM_{name.upper()}: {reason} (it is not shown)."
    assert PASSWORD not in str(refused.value)


def test_settings_show_no_secret(tmp_path: Path) -> None:
    shown = repr(read(tmp_path, secret_key=SECRET, database_url=DSN))
    assert SECRET not in shown
    assert PASSWORD not in shown


def test_every_variable_is_tried() -> None:
    names = {field.name for field in dataclasses.fields(Settings)}
    assert {name for name, *_ in GOOD} == names - {"data_dir"}
    free_text = {"host", "s3_bucket", "s3_region", "token_issuer", "token_audience"}
    assert {name for name, *_ in (*BAD, *SECRETS)} == names - free_text


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("192.0.2.7", "http://192.0.2.7:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://127.0.0.1:8000"),
        ("::1", "http://[::1]:8000"),
    ],
)
def test_where_clients_reach_the_server_follows_from_where_it_listens(tmp_path: Path, host: str, url: str) -> None:
    assert read(tmp_path, host=host).public_url == url


def test_s3_needs_a_bucket(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        read(tmp_path, storage="s3")
    assert str(refused.value) == "HEIRLOOM_S3_BUCKET must be set when HEIRLOOM_STORAGE is s3."
    assert read(tmp_path, storage="s3", s3_bucket="photos").storage == "s3"


# ---------------------------------------------------------------- the secret key


def test_the_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "some" / "data"
    first = read(folder).secret_key
    assert len(bytes.fromhex(first)) == 32
    assert stat.S_IMODE((folder / "secret_key").stat().st_mode) == 0o600
    assert read(folder).secret_key == first
    assert [path.name for path in folder.iterdir()] == ["secret_key"]
    assert read(tmp_path / "other").secret_key != first
    assert read(folder, secret_key=SECRET).secret_key == SECRET
    assert read(folder).secret_key == first


def test_processes_that_start_at_once_agree_on_a_key(tmp_path: Path) -> None:
    for round_ in range(20):
        folder = tmp_path / str(round_)
        with ThreadPoolExecutor(8) as threads:
            keys = set(threads.map(lambda _, folder=folder: read(folder).secret_key, range(8)))
        assert len(keys) == 1
        assert [path.name for path in folder.iterdir()] == ["secret_key"]


def test_beside_a_database_of_ones_own_the_key_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        read(tmp_path, database_url=DSN)
    assert str(refused.value) == "HEIRLOOM_SECRET_KEY must be set when HEIRLOOM_DATABASE_URL is."
    assert list(tmp_path.iterdir()) == []
    assert not read(tmp_path, database_url=DSN, secret_key=SECRET).laptop


def test_a_key_that_was_spoiled_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "secret_key").write_text("short\n")
    with pytest.raises(SettingsError) as refused:
        read(tmp_path)
    path = tmp_path / "secret_key"
    assert str(refused.value) == f"HEIRLOOM_DATA_DIR: {path} can't be made or read: must have at least 32 characters."


def test_a_data_folder_that_can_not_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"^HEIRLOOM_DATA_DIR: .*/file/data/secret_key can't be made or read: "):
        read(tmp_path / "file" / "data")


# ---------------------------------------------------------------- through the command line, and in the README


WRONG_PORT = "HEIRLOOM_PORT: must be a whole number from 1 to 65535 (it is '0')."


@pytest.mark.parametrize(
    ("subcommand", "variables", "sentence"),
    [
        ("serve", {"port": "0"}, WRONG_PORT),
        ("worker", {"port": "0"}, WRONG_PORT),
        ("migrate", {"port": "0"}, WRONG_PORT),
        ("serve", {"database_url": DSN}, "HEIRLOOM_SECRET_KEY must be set when HEIRLOOM_DATABASE_URL is."),
    ],
)
def test_a_wrong_value_stops_the_start_with_a_sentence(
    tmp_path: Path, subcommand: str, variables: Mapping[str, str], sentence: str
) -> None:
    ended = subprocess.run(
        command(subcommand), env=environment(tmp_path, **variables), capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", f"heirloom: {sentence}\n")
    assert list(tmp_path.iterdir()) == []


def test_the_readme_has_every_setting() -> None:
    assert table() in (PROJECT / "README.md").read_text()
