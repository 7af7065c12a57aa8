"""The contract suite, run against every storage there is."""

import pytest

from storage.local import LocalStorage
from storage.s3 import S3Storage
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


class TestS3OnRclone(S3Contract):
    # Where rclone differs from Amazon: the bytes and Content-Range are right, the numbers are its own.
    expired_status = 400
    unsigned_status = 400
    partial_status = 200

    @pytest.fixture
    def storage(self, rclone_storage: S3Storage) -> S3Storage:
        return rclone_storage


class TestS3OnRadosgw(S3Contract):
    @pytest.fixture
    def storage(self, radosgw_storage: S3Storage) -> S3Storage:
        return radosgw_storage
