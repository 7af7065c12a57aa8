"""`rclone serve s3`, from its wheel: here everywhere, started in a fifth of a second, and it checks signatures."""

import re
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.contracts.servers import ACCESS_KEY, SECRET_KEY, S3Server, daemon, wait_until

RCLONE = Path(sysconfig.get_path("scripts")) / "rclone"
_SERVING = re.compile(r"Starting s3 server on \[(https?://[0-9.:]+)/\]")


@contextmanager
def rclone(folder: Path, certificate: Path | None = None) -> Iterator[S3Server]:
    """Serves `folder`'s subfolders as buckets, on a port of its own choice; by https with a certificate and its key."""
    (data := folder / "data").mkdir()
    log = folder / "rclone.log"
    # An empty configuration: the user's own must not have a say.
    serve = (RCLONE, "--config", "", "serve", "s3", data, "--addr", "127.0.0.1:0")
    # Else it writes parts on as they come, and can neither replace one that was sent nor leave one out.
    options = ("--disable-multipart-streaming", "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}")
    secure = ("--cert", certificate, "--key", certificate) if certificate else ()
    with daemon(*serve, *options, *secure, log=log) as process:
        wait_until(lambda: bool(_SERVING.search(log.read_text())), process=process, log=log)
        serving = _SERVING.search(log.read_text())
        assert serving is not None
        yield S3Server("rclone", serving[1])
