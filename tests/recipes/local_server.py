"""A web server on this machine, for the files of stand-ins and for what goes wrong on the way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

Answer = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """Serves the files of a folder; ``answers`` has another answer for some."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.answers, self.asked = folder, dict[str, Answer](), list[str]()
        self.released = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = unquote(self.path.lstrip("/"))
                server.asked.append(name)
                if name in server.answers:
                    server.answers[name](self)
                    return
                path = server.folder / name
                if not path.is_file():
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(path.stat().st_size))
                self.end_headers()
                with open(path, "rb") as file:
                    while block := file.read(1 << 20):
                        self.wfile.write(block)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def close(self) -> None:
        self.released.set()
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


def _begin(handler: BaseHTTPRequestHandler, promised: int | None) -> None:
    handler.send_response(200)
    if promised is not None:
        handler.send_header("Content-Length", str(promised))
    handler.end_headers()


def html(handler: BaseHTTPRequestHandler) -> None:
    page = b"\n <!DOCTYPE html><html><body>Please log in to the proxy</body></html>"
    _begin(handler, len(page))
    handler.wfile.write(page)


def wrong_bytes(handler: BaseHTTPRequestHandler) -> None:
    _begin(handler, 100_000)
    handler.wfile.write(bytes(100_000))


def cut_short(handler: BaseHTTPRequestHandler) -> None:
    """Promises more than it sends."""
    _begin(handler, 1_000_000)
    handler.wfile.write(bytes(5000))
    handler.close_connection = True


def cut_without_length(handler: BaseHTTPRequestHandler) -> None:
    _begin(handler, None)
    handler.wfile.write(bytes(5000))


def empty(handler: BaseHTTPRequestHandler) -> None:
    _begin(handler, 0)


def forbidden(handler: BaseHTTPRequestHandler) -> None:
    handler.send_error(403)


def stall(server: Server) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        _begin(handler, 1_000_000)
        handler.wfile.write(bytes(5000))
        handler.wfile.flush()
        server.released.wait(20)

    return answer
