"""The one radosgw of a test run: it takes ten seconds and more to start. A pytest plugin, as `tests.postgres` is."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from tests.contracts.radosgw import missing_binaries, radosgw
from tests.contracts.servers import S3Server


@dataclass(frozen=True)
class Certificate:
    """For 127.0.0.1: `server` is it with its key, `authority` who has to be trusted for it."""

    server: Path
    authority: Path


@pytest.hookimpl(tryfirst=True)  # before xdist looks at the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any("radosgw" in name for name in (item.name, *getattr(item, "fixturenames", ()))):
            item.add_marker(pytest.mark.xdist_group("radosgw"))


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    folder = tmp_path_factory.mktemp("certificate")
    made = Certificate(folder / "server.pem", folder / "authority.pem")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(made.authority))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(made.server))
    return made


@pytest.fixture(scope="session")
def radosgw_server(tmp_path_factory: pytest.TempPathFactory, certificate: Certificate) -> Iterator[S3Server]:
    """Shared: whoever counts what is there has a bucket of its own."""
    if missing := missing_binaries():
        pytest.skip(f"Debian's radosgw is not installed: no {', '.join(missing)}")
    with radosgw(tmp_path_factory.mktemp("radosgw"), certificate.server) as server:
        yield server
