import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from litestar import Litestar

pytest.register_assert_rewrite("tests.contracts.storage", "tests.contracts.direct_uploads")

from app.files import file_routes  # noqa: E402 - the suite's asserts must be rewritten before it is imported
from storage.local import LocalStorage  # noqa: E402
from storage.s3 import S3Storage  # noqa: E402
from storage.signing import UrlSigner  # noqa: E402
from tests.contracts.fixtures import Certificate  # noqa: E402
from tests.contracts.http import listening_socket, serving  # noqa: E402
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
async def opened_storage(endpoint_url: str) -> AsyncIterator[S3Storage]:
    async with S3Storage.open_bucket("contract", region=REGION, endpoint_url=endpoint_url) as storage:
        await storage.set_up()
        yield storage


@pytest.fixture
def folder() -> str:
    """A part of the key space that no other test knows."""
    return f"test/{uuid4()}"


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient() as client:
        yield client


@pytest.fixture(scope="session")
async def local_storage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalStorage]:
    async with served_local_storage(tmp_path_factory.mktemp("objects")) as storage:
        yield storage


@pytest.fixture
async def https(certificate: Certificate) -> AsyncIterator[httpx.AsyncClient]:
    """A client that trusts the certificate."""
    async with httpx.AsyncClient(verify=ssl.create_default_context(cafile=certificate.authority)) as client:
        yield client


@pytest.fixture(scope="session")
def rclone_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with rclone(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(scope="session")
def secure_rclone_server(tmp_path_factory: pytest.TempPathFactory, certificate: Certificate) -> Iterator[S3Server]:
    with rclone(tmp_path_factory.mktemp("rclone"), certificate.server) as server:
        yield server


@pytest.fixture(scope="session")
async def rclone_storage(rclone_server: S3Server, aws_credentials: None) -> AsyncIterator[S3Storage]:
    async with opened_storage(rclone_server.endpoint_url) as storage:
        yield storage


@pytest.fixture(scope="session")
async def secure_rclone_storage(secure_rclone_server: S3Server, trusting: None) -> AsyncIterator[S3Storage]:
    async with opened_storage(secure_rclone_server.endpoint_url) as storage:
        yield storage


@pytest.fixture(scope="session")
async def radosgw_storage(radosgw_server: S3Server, aws_credentials: None) -> AsyncIterator[S3Storage]:
    async with opened_storage(radosgw_server.endpoint_url) as storage:
        yield storage


@pytest.fixture(scope="session")
async def secure_radosgw_storage(radosgw_server: S3Server, trusting: None) -> AsyncIterator[S3Storage]:
    assert radosgw_server.secure_url is not None
    async with opened_storage(radosgw_server.secure_url) as storage:
        yield storage


@pytest.fixture(scope="session")
def aws_credentials() -> Iterator[None]:
    with aws_variables():
        yield


@pytest.fixture(scope="session")
def trusting(aws_credentials: None, certificate: Certificate) -> Iterator[None]:
    """S3 clients, from now on, trust the certificate."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_CA_BUNDLE", str(certificate.authority))
        yield
