"""What an HTTP request asks for: a JSON object, or a form in either of its two encodings, or its address."""
from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import parse_qsl

FORM, PARTS = "application/x-www-form-urlencoded", "multipart/form-data"
BOUNDARY = re.compile(r';\s*boundary=(?:"([^"\r\n]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
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
    """The fields of a multipart form (RFC 7578): parts between lines of a boundary, each with a head that names it."""
    boundary = BOUNDARY.search(kind)
    if boundary is None:
        raise ValueError("no boundary")
    mark = b"\r\n--" + (boundary[1] or boundary[2]).encode()
    _, *parts = (b"\r\n" + body).split(mark)
    found: list[tuple[str, str]] = []
    for part in parts:
        if part.startswith(b"--"):       # the last one
            return found
        head, blank, content = part.partition(b"\r\n\r\n")
        if not blank:
            raise ValueError("a part without a head")
        found.append((_name(head), content.decode()))
    raise ValueError("no end")


def _name(head: bytes) -> str:
    for line in head.split(b"\r\n"):
        header, *parameters = line.split(b";")
        if header.partition(b":")[0].strip().lower() == b"content-disposition":
            for parameter in parameters:
                key, _, value = parameter.strip().partition(b"=")
                if key.lower() == b"name":
                    return value.strip(b'"').decode()
    raise ValueError("a part without a name")
