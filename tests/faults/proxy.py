"""A faulty network in front of an HTTP server: requests are refused, cut off or left hanging, by a script."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Kind = Literal["status", "stall", "cut", "short", "flip", "reset"]
_OWN = {"connection", "transfer-encoding", "content-length", "keep-alive"}


@dataclass
class Fault:
    """What happens to the next matching requests.

    Attributes:
        kind: `status`: answered with an S3 error; `stall`: no answer; `cut`: the connection ends in mid-body;
            `short`: half the body, said to be all of it; `flip`: a bit of the body flips; `reset`: no answer at all.
        times: how many requests it meets; None: all.
        status: of kind `status`.
        code: S3's name of that error.
        method: only such requests; empty: all.
        path: only requests whose path contains it.
        seconds: of kind `stall`.
        met: requests so far.
    """

    kind: Kind
    times: int | None = 1
    status: int = 503
    code: str = "SlowDown"
    method: str = "GET"
    path: str = ""
    seconds: float = 30.0
    met: int = field(default=0, init=False)

    def meets(self, method: str, path: str) -> bool:
        wanted = self.method in ("", method) and self.path in path
        return wanted and (self.times is None or self.met < self.times)


class Proxy:
    """Forwards HTTP to `host:port`; faults are met in the order they were added.

    Use it as a context manager, or `start` and `stop` it; `url` is the endpoint to give to a client.
    """

    def __init__(self, host: str, port: int) -> None:
        self.target, self.faults, self.requests = (host, port), list[Fault](), list[tuple[str, str]]()
        self.before: Callable[[str, str], None] | None = None
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> Proxy:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Proxy:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @contextmanager
    def failing(self, *faults: Fault) -> Iterator[tuple[Fault, ...]]:
        """The faults for the length of a block."""
        self.faults.extend(faults)
        try:
            yield faults
        finally:
            self.faults[:] = [fault for fault in self.faults if fault not in faults]

    def take(self, method: str, path: str) -> Fault | None:
        """The fault of one request, which is counted."""
        with self._lock:
            self.requests.append((method, path))
            fault = next((fault for fault in self.faults if fault.meets(method, path)), None)
            if fault is not None:
                fault.met += 1
            return fault

    def wait(self, seconds: float) -> None:
        """Say nothing for some seconds, or until the proxy stops."""
        self._ended.wait(seconds)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, proxy: Proxy) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.proxy = proxy


class _Handler(BaseHTTPRequestHandler):
    """One connection; `server.proxy` knows what happens to it."""

    server: _Server
    protocol_version = "HTTP/1.1"

    def handle_one(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.proxy.before is not None:
            self.server.proxy.before(self.command, self.path)
        fault = self.server.proxy.take(self.command, self.path)
        match fault:
            case Fault(kind="status"):
                self._refuse(fault)
            case Fault(kind="stall"):
                self.server.proxy.wait(fault.seconds)
                self.close_connection = True
            case Fault(kind="reset"):
                self.close_connection = True
            case _:
                self._forward(body, fault)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = do_HEAD = handle_one  # names of the base class

    def _refuse(self, fault: Fault) -> None:
        text = f"<Error><Code>{fault.code}</Code><Message>{fault.code}</Message></Error>".encode()
        self.send_response(fault.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def _forward(self, body: bytes, fault: Fault | None) -> None:
        connection = http.client.HTTPConnection(*self.server.proxy.target, timeout=60)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        self._answer(answer, content, fault)

    def _answer(self, answer: http.client.HTTPResponse, content: bytes, fault: Fault | None) -> None:
        kind, half = fault.kind if fault else None, len(content) // 2
        sent = content[:half] if kind in ("cut", "short") else content
        if kind == "flip" and content:
            sent = content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
        said = answer.headers.get("Content-Length") if self.command == "HEAD" else None
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in _OWN:
                self.send_header(name, value)
        self.send_header("Content-Length", said or str(len(content if kind == "cut" else sent)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(sent)
        self.close_connection = kind == "cut" or self.close_connection

    def log_message(self, *_: Any) -> None:
        """Nothing: requests are in `Proxy.requests`."""
