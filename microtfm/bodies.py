"""What the body of an HTTP request asks for: a JSON object, or a form in either of its two encodings."""
from __future__ import annotations

import json
from email import message_from_bytes, policy
from typing import Any
from urllib.parse import parse_qs

FORM, PARTS = "application/x-www-form-urlencoded", "multipart/form-data"


def fields(kind: str, body: bytes) -> dict[str, Any]:
    """The values of a body by their names. kind: its content type; where that is no form's, JSON is meant.

    The lines of a form end in CRLF (RFC 7578, section 4.2); here they end in LF. Raises ValueError where the body is
    neither, or is not UTF-8.
    """
    name = kind.partition(";")[0].strip().lower()
    if name in (FORM, PARTS):
        found = _encoded(body) if name == FORM else _parts(kind, body)
        return {name: value.replace("\r\n", "\n") for name, value in found.items()}
    try:
        asked = json.loads(body.decode())
    except RecursionError:
        raise ValueError("too many brackets") from None
    if not isinstance(asked, dict):
        raise ValueError("no object")
    return asked


def _encoded(body: bytes) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(body.decode(), keep_blank_values=True).items()}


def _parts(kind: str, body: bytes) -> dict[str, str]:
    """A multipart form reads like a mail of several parts (RFC 7578)."""
    mail = message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body, policy=policy.HTTP)
    if not mail.is_multipart():
        raise ValueError("no parts")
    found = {}
    for part in mail.iter_parts():
        name, content = part.get_param("name", header="content-disposition"), part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(content, bytes):
            found[name] = content.decode()
    return found
