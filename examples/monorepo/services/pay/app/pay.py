"""Authorises payments up to a limit; whoever gets a receipt can have it checked here.

POST /authorise {"account": "a1", "cents": 1200}                 -> the same and "receipt"
POST /check     {"account": "a1", "cents": 1200, "receipt": …}   -> {"valid": true}
"""

import hashlib
import hmac
import json
import os
import secrets
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = secrets.token_bytes(32)
LIMIT_CENTS = int(os.environ["LIMIT_CENTS"])
MAX_BODY = 4096


def receipt_for(account: str, cents: int) -> str:
    """A receipt that only this enclave can have made."""
    words = json.dumps([account, cents]).encode()
    return hmac.new(KEY, words, hashlib.sha256).hexdigest()


def answer(path: str, order: dict[str, object]) -> dict[str, object]:
    """The answer to an order; ValueError says what is wrong with it."""
    account, cents = order.get("account"), order.get("cents")
    if not isinstance(account, str) or type(cents) is not int:
        raise ValueError("expected an account and a number of cents")
    if path == "/check":
        given = str(order.get("receipt", ""))
        return {"valid": hmac.compare_digest(given.encode(), receipt_for(account, cents).encode())}
    if not 0 < cents <= LIMIT_CENTS:
        raise ValueError(f"expected 1 to {LIMIT_CENTS} cents, got {cents}")
    return {"account": account, "cents": cents, "receipt": receipt_for(account, cents)}


class Handler(BaseHTTPRequestHandler):
    """One request."""

    timeout = 30

    def do_GET(self) -> None:
        """Health."""
        self.reply(200 if self.path == "/healthz" else 404, {})

    def do_POST(self) -> None:
        """Orders and checks."""
        try:
            if self.path not in ("/authorise", "/check"):
                raise ValueError("expected /authorise or /check")
            length = int(self.headers.get("Content-Length", "0"))
            if not 0 < length <= MAX_BODY:
                raise ValueError(f"expected a body of at most {MAX_BODY} bytes")
            order = json.loads(self.rfile.read(length))
            if not isinstance(order, dict):
                raise ValueError("expected a JSON object")
            self.reply(200, answer(self.path, order))
        except ValueError as error:
            self.reply(400, {"error": str(error)})

    def reply(self, status: int, document: dict[str, object]) -> None:
        """Send a JSON document."""
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
