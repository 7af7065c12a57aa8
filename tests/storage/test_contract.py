"""The contract suite, run against every storage there is."""

from collections.abc import AsyncIterator

import pytest

from storage.local import LocalStorage
from storage.s3 import S3Storage
from tests.contracts.servers import REGION, S3Server
from tests.contracts.storage import StorageContract


class TestLocal(StorageContract):
    expiry_parameter = "expires"
    signature_parameter = "signature"
    filename_parameter = "filename"

    @pytest.fixture
    def storage(self, local_storage: LocalStorage) -> LocalStorage:
        return local_storage


class S3Contract(StorageContract):
    expiry_parameter = "X-Amz-Expires"
    signature_parameter = "X-Amz-Signature"
    filename_parameter = "response-content-disposition"

    @pytest.fixture
    async def storage(self, server: S3Server, aws_credentials: None) -> AsyncIterator[S3Storage]:
        async with S3Storage.open_bucket("contract", region=REGION, endpoint_url=server.endpoint_url) as storage:
            await storage.ensure_bucket()
            yield storage


class TestS3OnRclone(S3Contract):
    # Where rclone differs from Amazon: the bytes and Content-Range are right, the numbers are its own.
    expired_status = 400
    unsigned_status = 400
    partial_status = 200

    @pytest.fixture
    def server(self, rclone_server: S3Server) -> S3Server:
        return rclone_server


class TestS3OnRadosgw(S3Contract):
    @pytest.fixture
    def server(self, radosgw_server: S3Server) -> S3Server:
        return radosgw_server
