"""An S3 server in a process of its own (moto's), and a proxy before it that spoils answers as networks do."""

import contextlib
import html
import http.client
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

# The server behind looks at who asks, and not at the signature.
OWNER = "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=a"
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


@dataclass
class Fault:
    """What becomes of the next `times` requests whose `GET /bucket/key` is found by `at`, but for the first `after`.

    `kind`: a status; `slow` (answers after `seconds`); `drop` (the connection, before the server hears of it); `lost`
    (the answer, after the server did it); `break` (in the middle of the body).
    """

    kind: str
    at: str = ""
    times: float = 1
    after: int = 0
    seconds: float = 3.0


@dataclass
class Server:
    """A bucket named `bucket`, empty for each test, at `address`."""

    address: str
    _behind: int  # the port of the server behind the proxy
    faults: list[Fault] = field(default_factory=list)
    hits: Counter = field(default_factory=Counter)  # by kind of fault
    asked: list[str] = field(default_factory=list)  # `GET /bucket/key?query`
    headers: http.client.HTTPMessage | None = None  # of the last request
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reset(self):
        self.faults, self.hits, self.asked = [], Counter(), []
        self._plain("POST", "/moto-api/reset")
        self._plain("PUT", "/bucket")

    def put(self, key, data):
        self._plain("PUT", f"/bucket/{quote(key)}", data)

    def get(self, key):
        return self._plain("GET", f"/bucket/{quote(key)}")

    def delete(self, key):
        self._plain("DELETE", f"/bucket/{quote(key)}")

    def keys(self, pattern=""):
        """Every key in which `pattern` is found."""
        found, after = [], ""
        while True:
            query = f"/bucket?list-type=2&start-after={quote(after, safe='')}"
            page = [html.unescape(key) for key in re.findall("<Key>(.*?)</Key>", self._plain("GET", query).decode())]
            if not page:
                return [key for key in found if re.search(pattern, key)]
            found, after = found + page, page[-1]

    def contents(self):
        return {key: self.get(key) for key in self.keys()}

    def _plain(self, method, path, data=None):
        """Past the proxy."""
        behind = http.client.HTTPConnection("127.0.0.1", self._behind, timeout=20)
        headers = {
            "Content-Type": "binary/octet-stream",
            "Content-Length": str(len(data or b"")),
            "Authorization": OWNER,
        }
        behind.request(method, path, data or None, headers)
        answer = behind.getresponse()
        said = answer.read()
        behind.close()
        assert answer.status < 300, (method, path, answer.status)
        return said

    def take(self, said):
        """The fault that a request meets, if any."""
        for fault in self.faults:
            if fault.times > 0 and re.search(fault.at, said):
                if fault.after > 0:
                    fault.after -= 1
                    continue
                fault.times -= 1
                self.hits[fault.kind] += 1
                return fault
        return None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of_test: Server

    def any(self):
        server = self.server_of_test
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        said = f"{self.command} {self.path}"
        with server.lock:
            server.asked.append(said)
            server.headers = self.headers
            fault = server.take(said)
        kind = fault.kind if fault else ""
        if kind == "drop":
            self.close_connection = True
            return
        if kind.isdecimal():
            self.answer(int(kind), {}, SLOW_DOWN if kind == "503" else b"", len(SLOW_DOWN) if kind == "503" else 0)
            return
        if kind == "slow":
            time.sleep(fault.seconds)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        if headers.get("x-goog-if-generation-match") == "0":  # what Google's servers call it
            headers["If-None-Match"] = "*"
        if headers.get("authorization", "").startswith("Bearer"):
            headers["authorization"] = OWNER
        behind = http.client.HTTPConnection("127.0.0.1", server._behind, timeout=20)
        behind.request(self.command, self.path, body, headers)
        answer = behind.getresponse()
        data, length = answer.read(), answer.headers["Content-Length"]
        behind.close()
        if kind == "lost":
            self.close_connection = True
            return
        passed = {
            n: v for n, v in answer.headers.items() if n.lower() not in ("connection", "content-length", "server")
        }
        if kind == "break":
            self.close_connection = True
            data = data[: len(data) // 2]
        self.answer(answer.status, passed, data, length or 0)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = any

    def answer(self, status, headers, data, length):
        with contextlib.suppress(OSError):  # who asked may have gone
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving():
    """A `Server` that runs, for as many tests as like to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        give_up = time.monotonic() + 60
        while True:
            assert process.poll() is None and time.monotonic() < give_up, "the S3 server does not start"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as proxy:
            proxy.daemon_threads, proxy.handle_error = True, lambda *_: None
            Handler.server_of_test = Server(f"http://127.0.0.1:{proxy.server_port}", port)
            threading.Thread(target=proxy.serve_forever, args=(0.01,), daemon=True).start()
            yield Handler.server_of_test
            proxy.shutdown()
    finally:
        process.terminate()
        process.wait()
