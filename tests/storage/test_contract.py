"""The contract suites, run against every storage there is."""

import httpx
import pytest

from storage.local import LocalStorage
from storage.s3 import S3Storage
from tests.contracts.direct_uploads import DirectUploadContract
from tests.contracts.storage import StorageContract


class TestLocal(StorageContract, DirectUploadContract):
    expiry_parameter = "expires"
    signature_parameter = "signature"
    filename_parameter = "filename"

    @pytest.fixture
    def storage(self, local_storage: LocalStorage) -> LocalStorage:
        return local_storage


class S3Contract(StorageContract, DirectUploadContract):
    expiry_parameter = "X-Amz-Expires"
    signature_parameter = "X-Amz-Signature"
    filename_parameter = "response-content-disposition"


class TestS3OnRclone(S3Contract):
    # Where rclone differs from Amazon: the bytes and Content-Range are right, the numbers are its own.
    expired_status = 400
    unsigned_status = 400
    partial_status = 200
    refusals = frozenset({400, 403})
    refused_steps = ("uploads from web pages", "unfinished uploads in parts", "what is left in incoming/")
    answers_preflights = False

    @pytest.fixture
    def storage(self, rclone_storage: S3Storage) -> S3Storage:
        return rclone_storage


class TestS3OnRcloneByHttps(TestS3OnRclone):
    @pytest.fixture
    def storage(self, secure_rclone_storage: S3Storage) -> S3Storage:
        return secure_rclone_storage

    @pytest.fixture
    def http(self, https: httpx.AsyncClient) -> httpx.AsyncClient:
        return https


class TestS3OnRadosgw(S3Contract):
    drops_parts = False  # of that release: it wants all that have arrived to be named

    @pytest.fixture
    def storage(self, radosgw_storage: S3Storage) -> S3Storage:
        return radosgw_storage


class TestS3OnRadosgwByHttps(TestS3OnRadosgw):
    @pytest.fixture
    def storage(self, secure_radosgw_storage: S3Storage) -> S3Storage:
        return secure_radosgw_storage

    @pytest.fixture
    def http(self, https: httpx.AsyncClient) -> httpx.AsyncClient:
        return https
