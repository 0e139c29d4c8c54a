"""What an HTTP request asks for: a JSON object, or a form in either of its two encodings, or its address."""
from __future__ import annotations

import json
from email import message_from_bytes, policy
from typing import Any
from urllib.parse import parse_qsl

FORM, PARTS = "application/x-www-form-urlencoded", "multipart/form-data"
SEVERAL = "q"                            # the field that a form may have several times


def fields(kind: str, body: bytes, query: bytes = b"") -> dict[str, Any]:
    """The values of a request by their names. kind: the content type of its body; where that is no form's, JSON is
    meant. query: what follows the ? of its address; it counts for fields that a form, or an empty body, lacks.

    A form that has q several times asks for a list of texts; of any other field the first counts. The lines of a form
    end in CRLF (RFC 7578, section 4.2); here they end in LF. Raises ValueError where the body is neither JSON nor a
    form, or anything is not UTF-8.
    """
    name = kind.partition(";")[0].strip().lower()
    if body and name not in (FORM, PARTS):
        return _object(body)
    pairs = _parts(kind, body) if body and name == PARTS else _encoded(body)
    return _values(_encoded(query)) | _values(pairs)


def _object(body: bytes) -> dict[str, Any]:
    try:
        asked = json.loads(body.decode())
    except RecursionError:
        raise ValueError("too many brackets") from None
    if not isinstance(asked, dict):
        raise ValueError("no object")
    return asked


def _values(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value.replace("\r\n", "\n"))
    return {name: values if name == SEVERAL and len(values) > 1 else values[0] for name, values in found.items()}


def _encoded(text: bytes) -> list[tuple[str, str]]:
    return parse_qsl(text.decode(), keep_blank_values=True, errors="strict")


def _parts(kind: str, body: bytes) -> list[tuple[str, str]]:
    """A multipart form reads like a mail of several parts (RFC 7578)."""
    mail = message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body, policy=policy.HTTP)
    if not mail.is_multipart():
        raise ValueError("no parts")
    found = []
    for part in mail.iter_parts():
        name, content = part.get_param("name", header="content-disposition"), part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(content, bytes):
            found.append((name, content.decode()))
    return found
