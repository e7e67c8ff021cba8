"""Tokens in place of personal data: the same value always gives the same token, and only the key's
holder can make or check one. The key is made inside the enclave and never leaves it."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import unicodedata

MAX_VALUES = 1_000
MAX_LENGTH = 4_096
_TOKEN_BYTES = 24


class Tokeniser:
    """Makes and checks tokens under one secret key."""

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key or secrets.token_bytes(32)

    @property
    def key_id(self) -> str:
        """Names the key without giving it away: a hash of it under another label."""
        return hashlib.blake2b(self._key, digest_size=8, person=b"cage-key-id").hexdigest()

    def token(self, field: str, value: str) -> str:
        """The token of ``value`` in ``field``. Equal text in another Unicode form is equal here."""
        normal = unicodedata.normalize("NFC", value).encode()
        label = field.encode()
        message = len(label).to_bytes(4, "big") + label + normal
        mac = hmac.digest(self._key, message, "sha256")
        return f"tok_{mac[:_TOKEN_BYTES].hex()}"

    def matches(self, field: str, value: str, token: str) -> bool:
        """Whether ``token`` is the one of ``value``, in constant time."""
        return hmac.compare_digest(self.token(field, value).encode(), token.encode())


def checked_fields(document: object) -> dict[str, str]:
    """The fields of a request, or ValueError with what is wrong."""
    if not isinstance(document, dict) or not isinstance(document.get("fields"), dict):
        raise ValueError('expected {"fields": {name: text}}')
    fields = document["fields"]
    if not 0 < len(fields) <= MAX_VALUES:
        raise ValueError(f"expected 1 to {MAX_VALUES} fields, got {len(fields)}")
    for name, value in fields.items():
        if not isinstance(value, str) or len(value) > MAX_LENGTH:
            raise ValueError(f"field {name!r}: expected text of at most {MAX_LENGTH} characters")
    return fields
