"""What a request asks for: JSON, forms and addresses say the same."""
from __future__ import annotations

from typing import Any

import pytest

from microtfm.bodies import fields

FORM, PARTS = "application/x-www-form-urlencoded", "multipart/form-data; boundary=m"


def _multipart(*pairs: tuple[str, str]) -> bytes:
    parts = "".join(f'--m\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in pairs)
    return f"{parts}--m--\r\n".encode()


@pytest.mark.parametrize(("kind", "body", "query", "wanted"), [
    (FORM, b"q=A&q=B%0D%0AC&source=zh&source=de", b"", {"q": ["A", "B\nC"], "source": "zh"}),
    (PARTS, _multipart(("q", "A"), ("q", "B\r\nC"), ("source", "zh"), ("source", "de")), b"",
     {"q": ["A", "B\nC"], "source": "zh"}),
    (FORM, b"q=%E4%BD%A0&format=", b"", {"q": "你", "format": ""}),
    (FORM, b"q=A", b"q=B&q=C&source=zh", {"q": "A", "source": "zh"}),
    (PARTS, _multipart(("q", "A")), b"q=B&source=zh", {"q": "A", "source": "zh"}),
    ("", b"", b"q=%E4%BD%A0+B&q=C", {"q": ["你 B", "C"]}),
    ("application/json", b"", "q=你".encode(), {"q": "你"}),
    ("application/json", b'{"q": "A"}', b"source=zh", {"q": "A"}),
    (PARTS, b"", b"", {}),
    ('Multipart/Form-Data; charset=utf-8; boundary="m"',
     b"first\r\n--m\r\ncontent-disposition: form-data; x; NAME=q\r\nContent-Type: text/plain\r\n\r\n"
     b"A--m\r\n\r\nB\r\n--m--\r\nlast", b"", {"q": "A--m\n\nB"}),
])
def test_what_is_asked(kind: str, body: bytes, query: bytes, wanted: dict[str, Any]) -> None:
    assert fields(kind, body, query) == wanted


@pytest.mark.parametrize(("kind", "body", "query"), [
    (FORM, b"q=%FF", b""), (FORM, b"q=\xff", b""), ("", b"", b"q=%C3"), ("", b"", b"q=\xff"), (FORM, b"q=A", b"q=%FF"),
    (PARTS, b"no parts", b""), (PARTS, _multipart(("q", "A"))[:-8], b""), ("", b"[]", b""), ("", b"q=A", b"q=A"),
    ("multipart/form-data", _multipart(), b""), (PARTS, b"--m\r\nx\r\n--m--", b""),
    (PARTS, b"--m\r\nContent-Disposition: ;0name*\r\n\r\nA\r\n--m--", b""),
    (PARTS, b"--m\r\n\r\nA\r\n--m--", b""),
    (PARTS, b"--m\r\nContent-Disposition: form-data; name=\xff\r\n\r\nA\r\n--m--", b""),
])
def test_what_cannot_be_read(kind: str, body: bytes, query: bytes) -> None:
    with pytest.raises(ValueError):
        fields(kind, body, query)
