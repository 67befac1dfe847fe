"""A web server on this machine that answers well and badly, for the tests of fetching."""

import http.server
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Answer = Callable[["Handler"], None]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by path, from the server's `pages`; remembers what it was asked."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server: Server = self.server
        path = self.path.partition("?")[0]
        with server.lock:
            server.asked[self.path] += 1
            server.agents.add(self.headers["User-Agent"])
            server.connections.add(self.client_address)
            server.now += 1
            server.most = max(server.most, server.now)
        try:
            server.pages.get(path, status(404))(self)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with server.lock:
                server.now -= 1

    def log_message(self, *_):
        """Say nothing."""


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, pages: dict[str, Answer]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages = pages
        self.asked: Counter[str] = Counter()
        self.agents: set[str] = set()
        self.connections: set = set()
        self.lock = threading.Lock()
        self.now = self.most = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_):
        """A client that went away is none of the test's business."""


@contextmanager
def serving(pages: dict[str, Answer], tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    with Server(pages) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def body(content: bytes, kind: str = "image/jpeg", **headers: str) -> Answer:
    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def status(code: int, **headers: str) -> Answer:
    def answer(handler):
        handler.send_response(code)
        handler.send_header("Content-Length", "0")
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()

    return answer


def moved(to: str, code: int = 302) -> Answer:
    return status(code, Location=to)


def in_turn(*answers: Answer) -> Answer:
    """The first answer first, then the second, and the last one for ever."""
    left = list(answers)
    lock = threading.Lock()

    def answer(handler):
        with lock:
            one = left.pop(0) if len(left) > 1 else left[0]
        one(handler)

    return answer


def short(content: bytes) -> Answer:
    """Promises more than it gives."""

    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content) + 500))
        handler.end_headers()
        handler.wfile.write(content)
        handler.close_connection = True

    return answer


def endless(**headers: str) -> Answer:
    """Never stops, and never says how much it will be."""

    def answer(handler):
        handler.send_response(200)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.close_connection = True
        while True:
            handler.wfile.write(b"x" * 65536)

    return answer


def dripping(seconds: float = 0.1) -> Answer:
    """A byte now and then: no single read ever takes long."""

    def answer(handler):
        handler.send_response(200)
        handler.end_headers()
        handler.close_connection = True
        for _ in range(600):
            handler.wfile.write(b"x")
            handler.wfile.flush()
            time.sleep(seconds)

    return answer


def slow_header(seconds: float = 0.1) -> Answer:
    """Drips its headers."""

    def answer(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        handler.close_connection = True
        for _ in range(600):
            handler.wfile.write(b"x")
            handler.wfile.flush()
            time.sleep(seconds)

    return answer


def silent(seconds: float = 60.0) -> Answer:
    """Takes the question and says nothing."""

    return lambda _handler: time.sleep(seconds)
