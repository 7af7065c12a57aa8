from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from litestar import Litestar

pytest.register_assert_rewrite("tests.contracts.storage")

from app.files import file_routes  # noqa: E402 - the suite's asserts must be rewritten before it is imported
from storage.local import LocalStorage  # noqa: E402
from storage.s3 import S3Storage  # noqa: E402
from storage.signing import UrlSigner  # noqa: E402
from tests.contracts.http import listening_socket, serving  # noqa: E402
from tests.contracts.radosgw import missing_binaries, radosgw  # noqa: E402
from tests.contracts.rclone import rclone  # noqa: E402
from tests.contracts.servers import REGION, S3Server, aws_variables  # noqa: E402


@asynccontextmanager
async def served_local_storage(root: Path) -> AsyncIterator[LocalStorage]:
    """A local storage whose signed URLs lead somewhere."""
    listener = listening_socket()
    base_url = f"http://127.0.0.1:{listener.getsockname()[1]}/files"
    storage = LocalStorage(root, signer=UrlSigner(b"a secret for tests only"), base_url=base_url)
    async with serving(Litestar([file_routes(storage)], openapi_config=None, logging_config=None), listener):
        yield storage


@asynccontextmanager
async def opened_storage(server: S3Server) -> AsyncIterator[S3Storage]:
    async with S3Storage.open_bucket("contract", region=REGION, endpoint_url=server.endpoint_url) as storage:
        await storage.ensure_bucket()
        yield storage


@pytest.fixture(scope="session")
async def local_storage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalStorage]:
    async with served_local_storage(tmp_path_factory.mktemp("objects")) as storage:
        yield storage


@pytest.fixture(scope="session")
def rclone_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with rclone(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(scope="session")
def radosgw_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    if missing := missing_binaries():
        pytest.skip(f"Debian's radosgw is not installed: no {', '.join(missing)}")
    with radosgw(tmp_path_factory.mktemp("radosgw")) as server:
        yield server


@pytest.fixture(scope="session")
async def rclone_storage(rclone_server: S3Server, aws_credentials: None) -> AsyncIterator[S3Storage]:
    async with opened_storage(rclone_server) as storage:
        yield storage


@pytest.fixture(scope="session")
async def radosgw_storage(radosgw_server: S3Server, aws_credentials: None) -> AsyncIterator[S3Storage]:
    async with opened_storage(radosgw_server) as storage:
        yield storage


@pytest.fixture(scope="session")
def aws_credentials() -> Iterator[None]:
    with aws_variables():
        yield
