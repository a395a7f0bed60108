"""The page over HTTP: fixed files, JSON of what is on disk, nothing that writes.

Everything that comes from a run is data: it leaves as JSON and the page sets it as text. No path is made of an address:
files of the page are a fixed table, runs and sources are looked up by name.
"""

import gzip
import hmac
import logging
import secrets
import socket
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qs, urlsplit

from extra_jax.errors import ExtraError
from extra_jax.view.answers import Answers, Refused, to_json
from extra_jax.view.page import INDEX, SCRIPTS, STYLES

_KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
_FILES = {"/": INDEX} | {f"/{path.name}": path for path in (*STYLES, *SCRIPTS)}
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
POLICY += "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_logger = logging.getLogger(__name__)
_COOKIE = "extra_jax_view"
_PAUSE = 1.0  # seconds between two looks at the disk
_SILENT = 30  # seconds after which a connection that says nothing is closed


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host name or address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Server(ThreadingHTTPServer):
    """Serves some runs until ``shutdown``.

    Args:
        host: on another host than the loopback, whoever asks needs the token.
        port: 0 for a free one.

    Attributes:
        url: what to open, with the token where there is one.

    Raises:
        ExtraError: the port is taken, or the host is none of this machine.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, answers: Answers, host: str = "127.0.0.1", port: int = 0):
        self.answers = answers
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.token = "" if is_loopback(host) else secrets.token_urlsafe(24)
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise ExtraError(f"{host}:{port}: {error.strerror}. Choose another --port or --host.") from error
        self.port = int(self.server_address[1])
        name = f"[{host}]" if ":" in host else host
        self.url = f"http://{name}:{self.port}/" + (f"?token={self.token}" if self.token else "")
        self._stopped = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        """Notices what is new on disk and indexes it, one file at a time."""
        while not self._stopped.is_set():
            try:
                worked = self.answers.advance()
            except OSError as error:  # a disk that answers no more may do so again
                _logger.warning("%s; looking again", error)
                worked = False
            if not worked:
                self._stopped.wait(_PAUSE)

    def shutdown(self) -> None:
        self._stopped.set()
        super().shutdown()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that leaves is no error; anything else is told as usual."""
        import sys

        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    timeout = _SILENT

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        if not self._from_here():
            self._send(HTTPStatus.MISDIRECTED_REQUEST, b"another host name was asked for", "text/plain")
        elif not self._may_enter(address.query):
            said = b"This page needs the token: open the whole address that `extra-jax view` printed."
            self._send(HTTPStatus.FORBIDDEN, said, "text/plain")
        elif address.path in _FILES:
            path = _FILES[address.path]
            self._send(HTTPStatus.OK, path.read_bytes(), f"{_KINDS[path.suffix]}; charset=utf-8")
        elif address.path.startswith("/api/"):
            self._answer(address.path.removeprefix("/api/"), parse_qs(address.query))
        else:
            self._send(HTTPStatus.NOT_FOUND, b"there is no such page", "text/plain")

    def _answer(self, name: str, query: Mapping[str, list[str]]) -> None:
        try:
            value = self.server.answers(name, {key: values[-1] for key, values in query.items()})
        except Refused as error:
            self._send(HTTPStatus.NOT_FOUND, to_json({"error": str(error)}), "application/json")
        else:
            self._send(HTTPStatus.OK, to_json(value), "application/json")

    def _from_here(self) -> bool:
        """Whether the browser was sent to us by an address of ours: else a foreign page could have its own name lead
        to the loopback and read along (DNS rebinding)."""
        host = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        return bool(self.server.token) or is_loopback(host)

    def _may_enter(self, query: str) -> bool:
        token = self.server.token
        if not token:
            return True
        given = parse_qs(query).get("token", [""])[-1]
        try:
            cookie = SimpleCookie(self.headers.get("Cookie", "")).get(_COOKIE)
        except CookieError:
            cookie = None
        return any(
            hmac.compare_digest(value.encode("utf-8", "replace"), token.encode())
            for value in (given, cookie.value if cookie else "")
        )

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        packed = len(body) > 2_000 and "gzip" in self.headers.get("Accept-Encoding", "")
        body = gzip.compress(body, 1) if packed else body
        self.send_response(status)
        headers = _HEADERS | {"Content-Type": kind, "Content-Length": str(len(body))}
        if packed:
            headers["Content-Encoding"] = "gzip"
        if self.server.token and status is HTTPStatus.OK:
            headers["Set-Cookie"] = f"{_COOKIE}={self.server.token}; HttpOnly; SameSite=Strict; Path=/"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def version_string(self) -> str:
        return "extra-jax"

    def log_message(self, format: str, *args: Any) -> None:
        """A page that asks every two seconds would fill the terminal."""


def serve(answers: Answers, host: str, port: int, opened: Callable[[str], None]) -> None:
    """Serves until Ctrl-C; ``opened`` is told the address once it answers."""
    server = Server(answers, host, port)
    opened(server.url)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server._stopped.set()
        server.server_close()
