"""A hub on this machine: the part of the Hugging Face hub's protocol that a download needs.

``/{repo}/resolve/{revision}/{file}`` states hash, size and commit in headers and, as the hub does
for large files, sends the client on to a storage server at another origin.
"""

import hashlib
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import ClassVar, Self

COMMIT = hashlib.sha1(b"the only commit").hexdigest()

RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
XET_TOKEN = "/xet-read-token"
STORED = re.compile(r"/stored/(?P<repo>[^/]+/[^/]+)/(?P<file>.+)")


class Hub:
    """A server in a thread, whose attributes tell what it has and how it misbehaves.

    A context manager; after ``stop`` it refuses connections.
    """

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        """Content by file by repository."""
        self.requests: list[str] = []
        """Method and path of every request, in order."""
        self.tampered: dict[bytes, bytes] = {}
        """What is sent instead of a content, whose own hash is stated all the same."""
        self.breaks = 0
        """So many downloads end halfway: the connection closes after half of the content."""
        self.status = 0
        """What every request is answered with, if not 0."""
        self.delay = 0.0
        """Seconds before it says what a file is."""
        self.states_size = True
        """Whether the size is stated before the download."""
        self.xet = False
        """Whether files lie in a Xet store, which here has lost them all."""
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        handler = type("BoundHandler", (Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])

    @property
    def url(self) -> str:
        """What HF_ENDPOINT is to be."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def downloads(self) -> int:
        """How often content was asked for."""
        return sum(request.startswith("GET /stored/") for request in self.requests)

    def stop(self) -> None:
        self.stopping.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def takes_a_break(self) -> bool:
        """Whether this download ends halfway; counts it."""
        with self.lock:
            self.breaks -= 1
            return self.breaks >= 0


def xet_token(url: str) -> dict[str, str]:
    """What admits to the Xet store."""
    return {
        "X-Xet-Cas-Url": f"{url}/xet",
        "X-Xet-Access-Token": "anybody",
        "X-Xet-Token-Expiration": str(int(time.time()) + 3600),
    }


class Handler(BaseHTTPRequestHandler):
    """Answers one connection, which carries one request."""

    hub: ClassVar[Hub]
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing; the requests are recorded."""

    def answer(self, *, body: bool) -> None:
        hub = self.hub
        with hub.lock:
            hub.requests.append(f"{self.command} {self.path}")
        if RESOLVE.fullmatch(self.path):
            hub.stopping.wait(hub.delay)
        if hub.status:
            self.send(hub.status, {})
        elif self.path == XET_TOKEN:
            self.send(200, xet_token(hub.url))
        elif match := STORED.fullmatch(self.path):
            self.send_stored(hub.repos[match["repo"]][match["file"]], body=body)
        elif (match := RESOLVE.fullmatch(self.path)) is None:
            self.send(404, {})
        elif match["repo"] not in hub.repos:  # the hub says 401 of what might be private
            self.send(401, {"X-Error-Code": "RepoNotFound"})
        elif match["file"] not in hub.repos[match["repo"]]:
            self.send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        else:
            self.send_on(match["repo"], match["file"])

    def send_on(self, repo: str, file: str) -> None:
        """State what the file is, and where it lies."""
        content = self.hub.repos[repo][file]
        headers = {
            "Location": f"http://localhost:{self.hub.port}/stored/{repo}/{file}",
            "ETag": f'"{hashlib.sha1(content).hexdigest()}"',  # of the pointer, on the real hub
            "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
        }
        if self.hub.states_size:
            headers["X-Linked-Size"] = str(len(content))
        if self.hub.xet:
            headers["X-Xet-Hash"] = hashlib.sha256(b"xet" + content).hexdigest()
            headers["X-Xet-Refresh-Route"] = f"{self.hub.url}{XET_TOKEN}"
        self.send(302, headers)

    def send_stored(self, content: bytes, *, body: bool) -> None:
        """Send the content, or the rest of it from where the client was cut off."""
        content = self.hub.tampered.get(content, content)
        start, size = 0, len(content)
        headers = {"Accept-Ranges": "bytes"}
        if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(wanted[1])
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        end = size // 2 if body and self.hub.takes_a_break() else size
        self.send(206 if start else 200, headers, content[start:], sent=max(0, end - start))

    def send(
        self, status: int, headers: dict[str, str], content: bytes = b"", *, sent: int | None = None
    ) -> None:
        """Send an answer, or only so many bytes of its content."""
        self.close_connection = True
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:sent])
