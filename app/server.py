"""The sample cage's service: an HTTP API that trades personal data for tokens.

GET  /healthz   200 when the service is well
GET  /key       the id of the key in use
POST /tokens    {"fields": {"email": "a@example.com"}}  ->  {"tokens": {"email": "tok_…"}}
POST /check     {"fields": {…}, "tokens": {…}}          ->  {"matches": {"email": true}}
"""

from __future__ import annotations

import json
import os
import signal
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tokens import Tokeniser, checked_fields

MAX_BODY = 1 << 20


class Handler(BaseHTTPRequestHandler):
    """One connection. The tokeniser belongs to the server."""

    protocol_version = "HTTP/1.1"
    server_version = "tokeniser"
    timeout = 30
    server: Service

    def do_GET(self) -> None:
        """Health and key id."""
        if self.path.split("?")[0] == "/healthz":
            self._answer(HTTPStatus.OK, {"status": "ok"})
        elif self.path == "/key":
            self._answer(HTTPStatus.OK, {"key_id": self.server.tokeniser.key_id})
        else:
            self._answer(HTTPStatus.NOT_FOUND, {"error": "no such path"})

    def do_POST(self) -> None:
        """Tokens and checks."""
        if self.path not in ("/tokens", "/check"):
            self._answer(HTTPStatus.NOT_FOUND, {"error": "no such path"})
            return
        try:
            document = self._body()
            fields = checked_fields(document)
            answer = (
                self._tokens(fields) if self.path == "/tokens" else self._check(document, fields)
            )
        except ValueError as error:
            self.close_connection = True
            self._answer(HTTPStatus.BAD_REQUEST, {"error": str(error)})
            return
        self._answer(HTTPStatus.OK, answer)

    def _tokens(self, fields: dict[str, str]) -> dict[str, object]:
        make = self.server.tokeniser.token
        return {"tokens": {name: make(name, value) for name, value in fields.items()}}

    def _check(self, document: object, fields: dict[str, str]) -> dict[str, object]:
        given = document.get("tokens") if isinstance(document, dict) else None
        if not isinstance(given, dict) or not all(isinstance(t, str) for t in given.values()):
            raise ValueError('expected {"tokens": {name: text}}')
        same = self.server.tokeniser.matches
        return {
            "matches": {
                name: name in given and same(name, value, given[name])
                for name, value in fields.items()
            }
        }

    def _body(self) -> object:
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit() or int(length) > MAX_BODY:
            raise ValueError(f"expected a body with a Content-Length of at most {MAX_BODY} bytes")
        return json.loads(self.rfile.read(int(length)))

    def _answer(self, status: HTTPStatus, document: dict[str, object]) -> None:
        body = json.dumps(document, sort_keys=True).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Method, path and status only: what is in a request stays out of the console."""
        del size
        status = int(code) if isinstance(code, HTTPStatus) else code
        print(f"{self.command} {self.path.split('?')[0]} {status}", flush=True)


class Service(ThreadingHTTPServer):
    """The server, with the tokeniser that its connections share."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], tokeniser: Tokeniser) -> None:
        super().__init__(address, Handler)
        self.tokeniser = tokeniser


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    service = Service(
        (os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", "8080"))), Tokeniser()
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=service.shutdown).start())
    print(f"listening on {service.server_address[0]}:{service.server_address[1]}", flush=True)
    service.serve_forever()
    service.server_close()


if __name__ == "__main__":
    main()
