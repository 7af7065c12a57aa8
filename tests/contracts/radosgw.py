"""Ceph's S3 gateway over a cluster of one monitor and one OSD in memory: the strictest S3 that Debian packages.

apt-get install --no-install-recommends radosgw ceph-mon ceph-osd ceph-common
"""

import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.contracts.servers import ACCESS_KEY, SECRET_KEY, S3Server, answers, daemon, wait_until
from tests.server import free_port

BINARIES = ("radosgw", "radosgw-admin", "ceph", "ceph-mon", "ceph-osd", "monmaptool")
MEMORY_BYTES = 1024**3  # the OSD's promised size, not what it takes

# Without cephx there is no key to encrypt with, and radosgw, unlike the other clients, would insist: hence `crc`.
_CONFIGURATION = """\
[global]
fsid = {fsid}
mon_initial_members = a
mon_host = [v2:{monitor}]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
ms_mon_client_mode = crc
osd_objectstore = memstore
memstore_device_bytes = {memory}
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pgp_num = 1
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_data_avail_crit = 0
mon_max_pg_per_osd = 1000
mon_data = {folder}/mon
osd_data = {folder}/osd
rgw_data = {folder}/rgw
run_dir = {folder}
admin_socket =
pid_file =
log_file = {folder}/$name.log
rgw_frontends = beast endpoint={gateway}{secure}
"""


def missing_binaries() -> list[str]:
    return [name for name in BINARIES if shutil.which(name) is None]


@contextmanager
def radosgw(folder: Path, certificate: Path | None = None) -> Iterator[S3Server]:
    """By https too, with a certificate and its key."""
    monitor, gateway = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    secure = f"127.0.0.1:{free_port()}" if certificate else ""
    fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
    configuration = folder / "ceph.conf"
    configuration.write_text(
        _CONFIGURATION.format(
            fsid=fsid,
            monitor=monitor,
            gateway=gateway,
            secure=f" ssl_endpoint={secure} ssl_certificate={certificate}" if certificate else "",
            folder=folder,
            memory=MEMORY_BYTES,
        )
    )
    conf = ("-c", configuration)
    log = folder / "start.log"
    (folder / "osd").mkdir()

    _run(log, "monmaptool", "--create", "--addv", "a", f"[v2:{monitor}]", "--fsid", fsid, folder / "monmap")
    _run(log, "ceph-mon", *conf, "--mkfs", "-i", "a", "--monmap", folder / "monmap")
    with ExitStack() as stack:
        stack.enter_context(daemon("ceph-mon", *conf, "-i", "a", "-f", log=log))
        _run(log, "ceph", *conf, "osd", "new", osd)
        # Without its uuid the OSD is taken for a stranger, and never comes up.
        _run(log, "ceph-osd", *conf, "-i", "0", "--osd-uuid", osd, "--mkfs")
        stack.enter_context(daemon("ceph-osd", *conf, "-i", "0", "-f", log=log))
        user = ("user", "create", "--uid", "tests", "--display-name", "tests")
        _run(log, "radosgw-admin", *conf, *user, "--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY)
        process = stack.enter_context(daemon("radosgw", *conf, "-n", "client.rgw", "-f", log=log))
        wait_until(lambda: answers(f"http://{gateway}"), process=process, log=log)
        yield S3Server("radosgw", f"http://{gateway}", f"https://{secure}" if certificate else None)


def _run(log: Path, *command: str | Path) -> None:
    with log.open("ab") as output:
        subprocess.run([*map(str, command)], stdout=output, stderr=output, check=True, timeout=60)
