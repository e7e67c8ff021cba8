"""POST /send {"to": …, "subject": …, "text": …}: one message, at once."""

import json
import os
import smtplib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from mailer import send

MAX_BODY = 1 << 20


class Handler(BaseHTTPRequestHandler):
    """One request."""

    timeout = 60

    def do_GET(self) -> None:
        """Health."""
        self.send_response(200 if self.path == "/healthz" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        """A message."""
        status = 202
        try:
            length = int(self.headers.get("Content-Length", "0"))
            if self.path != "/send" or not 0 < length <= MAX_BODY:
                raise ValueError
            message = json.loads(self.rfile.read(length))
            send(str(message["to"]), str(message["subject"]), str(message["text"]))
        except (ValueError, KeyError, TypeError):
            status = 400
        except (OSError, smtplib.SMTPException):
            status = 502
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
