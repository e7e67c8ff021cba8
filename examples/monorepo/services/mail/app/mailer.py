"""Handing a message to the mail server, over TLS from inside the enclave."""

import os
import smtplib
import ssl
from email.message import EmailMessage


def send(recipient: str, subject: str, text: str) -> None:
    """Send one message; raises smtplib.SMTPException, OSError, or ValueError for a bad header."""
    message = EmailMessage()
    message["From"] = "no-reply@example.com"
    message["To"] = recipient
    message["Subject"] = subject
    message.set_content(text)
    host = os.environ["SMTP_HOST"]
    with smtplib.SMTP_SSL(host, 465, timeout=30, context=ssl.create_default_context()) as server:
        server.login(os.environ["SMTP_USER"], os.environ["SMTP_PASSWORD"])
        server.send_message(message)
