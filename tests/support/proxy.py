"""A server of object storage on a bad day: slow, with one write a second an object, resets and late listings."""

import http.client
import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import SHUT_RDWR
from urllib.parse import parse_qs, unquote, urlsplit

from support.stores import Server


@dataclass
class Trouble:
    """Things that the proxy does to requests.

    Attributes:
      latency_s: time that each takes.
      per_object_s: seconds between two writes of an object, the second one being answered 429.
      resets: share of requests whose connection is reset, half of them when they are done.
      refusals: share of requests that are answered 503.
      late_s: seconds until a listing shows a new object.
      seen: what it has done, by kind.
    """

    latency_s: float = 0.0
    per_object_s: float = 0.0
    resets: float = 0.0
    refusals: float = 0.0
    late_s: float = 0.0
    seed: int = 0
    seen: Counter[str] = field(default_factory=Counter)


def _handler(server: Server, trouble: Trouble) -> type[BaseHTTPRequestHandler]:
    behind = urlsplit(server.url).netloc
    chance, busy = random.Random(trouble.seed), threading.Lock()
    written: dict[str, float] = {}
    made: dict[str, float] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            """Writes nothing of requests to the screen."""

        def handle_one(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            time.sleep(trouble.latency_s)
            name = self._written(body)
            with busy:
                dice, now = chance.random(), time.monotonic()
                too_soon = name is not None and now - written.get(name, 0.0) < trouble.per_object_s
            trouble.seen["requests"] += 1
            if dice < trouble.resets / 2:
                self._reset("reset before")
            elif dice > 1 - trouble.refusals:
                self._refuse(503)
            elif too_soon:
                self._refuse(429)
            else:
                status, headers, content = self._forward(body)
                if name is not None and status < 300:
                    with busy:
                        written[name] = now
                        made.setdefault(name, now)
                if dice < trouble.resets:
                    self._reset("reset after")
                else:
                    self._answer(status, headers, self._without_new(content))

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = handle_one

        def _written(self, body: bytes) -> str | None:
            """Name of the object that a request writes."""
            path = urlsplit(self.path)
            if server.scheme == "s3":
                return unquote(path.path) if self.command == "PUT" and path.path.count("/") > 1 else None
            if not path.path.startswith("/upload/"):
                return None
            said = re.search(rb'"name": *("(?:[^"\\]|\\.)*")', body[:4096])  # of a multipart upload
            return json.loads(said[1]) if said else parse_qs(path.query).get("name", [""])[0]

        def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            connection = http.client.HTTPConnection(behind, timeout=60)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
            connection.request(self.command, self.path, body or None, headers)
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            return answer.status, answer.getheaders(), content

        def _without_new(self, content: bytes) -> bytes:
            if not trouble.late_s or server.scheme != "gs" or "/o?" not in self.path or self.command != "GET":
                return content
            with suppress(ValueError):
                listing, now = json.loads(content), time.monotonic()
                if isinstance(listing, dict) and "items" in listing:
                    whole = listing["items"]
                    listing["items"] = [item for item in whole if now - made.get(item["name"], -1e9) > trouble.late_s]
                    trouble.seen["late"] += len(whole) - len(listing["items"])
                    return json.dumps(listing).encode()
            return content

        def _refuse(self, status: int) -> None:
            trouble.seen[str(status)] += 1
            code = "SlowDown" if server.scheme == "s3" else status
            said = f"<Error><Code>{code}</Code><Message>slow down</Message></Error>"
            if server.scheme == "gs":
                said = json.dumps({"error": {"code": status, "message": "slow down"}})
            self._answer(status, [], said.encode())

        def _reset(self, kind: str) -> None:
            trouble.seen[kind] += 1
            self.close_connection = True
            self.connection.shutdown(SHUT_RDWR)

        def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in ("content-length", "transfer-encoding", "connection", "content-encoding"):
                    self.send_header(name, value)
            length = {name.lower(): value for name, value in headers}.get("content-length", "0")
            self.send_header("Content-Length", length if self.command == "HEAD" else str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    return Handler


@contextmanager
def behind_proxy(server: Server, trouble: Trouble) -> Iterator[Server]:
    """The same server, behind a proxy that makes trouble."""

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *args: object) -> None:
            """Says nothing of clients that have gone."""

    proxy = Quiet(("127.0.0.1", 0), _handler(server, trouble))
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield replace(server, url=f"http://127.0.0.1:{proxy.server_address[1]}")
    finally:
        proxy.shutdown()
        proxy.server_close()
