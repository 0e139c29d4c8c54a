"""The server, over real sockets: what it answers, what it refuses, many at once, and how it ends."""
from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from tiny import corpus, pairs, settings

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from microtfm import languages, train
from microtfm.cli import main
from microtfm.translator import Translator
from microtfm.waiting import Busy, Late, Line

LINES = [a for a, _ in pairs()]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    train.train(settings(path, steps=40, validate_every=40), corpus=corpus())
    return path


class Served:
    """A server in a process of its own."""

    def __init__(self, run: Path, *flags: str) -> None:
        command = [sys.executable, "-m", "microtfm.cli", "serve", str(run), "--port", "0", "--target", "en", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        encoding="utf-8")
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()
        self.port = int(self.said.split("127.0.0.1:")[1].split()[0])

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection.request(method, path, data, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        kind = answer.headers["content-type"]
        return answer.status, json.loads(text) if kind == "application/json" else text.decode()

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said


@pytest.fixture(scope="module")
def server(run: Path) -> Iterator[Served]:
    served = Served(run, "--max-lines", "40", "--max-bytes", "5000")
    try:
        yield served
    finally:
        served.process.kill()
        served.process.communicate()


def test_it_answers_in_the_shape_of_libretranslate(server: Served, run: Path) -> None:
    translator = Translator.load(run)
    first, second = translator.translate(LINES[:2])
    status, answer = server.ask("POST", "/translate", {"q": LINES[0], "source": "zh", "target": "en", "format": "text"})
    assert (status, answer) == (200, {"translatedText": first})
    assert server.ask("POST", "/translate", {"q": f"{LINES[0]}\n\n{LINES[1]}"})[1]["translatedText"] == (
        f"{first}\n\n{second}")
    asked = {"q": LINES[:2], "source": "auto", "target": "en", "alternatives": 2}
    answer = server.ask("POST", "/translate", asked)[1]
    assert answer["detectedLanguage"] == [{"language": "zh", "confidence": 100.0}] * 2
    best = translator.candidates(LINES[:2], 3)
    assert answer["translatedText"] == [each[0].text for each in best]
    assert answer["alternatives"] == [[one.text for one in each[1:]] for each in best]
    assert answer["translatedText"] == translator.translate(LINES[:2])
    assert server.ask("POST", "/translate", {"q": LINES[0], "source": None})[1] == {"translatedText": first}
    lone = server.ask("POST", "/translate", {"q": f"{LINES[0][0]}\ud800{LINES[0][1]}"})[1]
    assert lone["translatedText"] == translator.translate([f"{LINES[0][0]}\ud800{LINES[0][1]}"])[0]
    cut = server.ask("POST", "/translate", {"q": "".join(LINES)})[1]
    assert cut["notices"] == translator.notes(["".join(LINES)]) and "translated in pieces" in cut["notices"][0]
    assert cut["translatedText"] == translator.translate(["".join(LINES)])[0]
    other = server.ask("POST", "/translate", {"q": "one two three four"})[1]
    assert other["notices"] == translator.notes(["one two three four"]) and "in Latin letters" in other["notices"][0]
    assert server.ask("GET", "/languages") == (200, [{"code": "zh", "name": "Chinese", "targets": ["en"]},
                                                     {"code": "en", "name": "English", "targets": []}])
    assert server.ask("GET", "/health") == (200, {"status": "ok"})
    assert "<textarea" in server.ask("GET", "/")[1]
    assert server.ask("POST", "/attention", {"q": LINES[0]})[1]["svg"].startswith("<svg")


def _multipart(q: str, mark: str) -> bytes:
    parts = "".join(f'--{mark}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
                    for name, value in (("q", q), ("source", "zh"), ("target", "en")))
    return f"{parts}--{mark}--\r\n".encode()


@pytest.mark.parametrize(("kind", "body"), [
    ("application/x-www-form-urlencoded",
     urlencode({"q": "\r\n".join(LINES[:2]), "source": "zh", "target": "en"}).encode()),
    ("multipart/form-data; boundary=a-mark", _multipart("\r\n".join(LINES[:2]), "a-mark"))])
def test_a_form_asks_as_json_does(server: Served, run: Path, kind: str, body: bytes) -> None:
    answer = server.ask("POST", "/translate", body, **{"Content-Type": kind})
    assert answer == (200, {"translatedText": "\n".join(Translator.load(run).translate(LINES[:2]))})


@pytest.mark.parametrize("body", [b"", b"no parts at all", b"--other\r\n\r\nx\r\n--other--",
                                  b'--m\r\nContent-Disposition: form-data; name="q"\r\n\r\n\xff\r\n--m--'])
def test_a_broken_form_is_refused(server: Served, body: bytes) -> None:
    status, answer = server.ask("POST", "/translate", body, **{"Content-Type": "multipart/form-data; boundary=m"})
    assert status == 400 and ("or a form" in answer["error"] or "q is missing" in answer["error"])


def test_clients_on_other_pages_may_ask_and_learn_what_is_served(server: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("OPTIONS", "/translate", headers={
        "Origin": "https://example.org", "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type"})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, "*")
    settings = server.ask("GET", "/frontend/settings")[1]
    assert settings["language"]["source"] == {"code": "zh", "name": "Chinese"} and settings["charLimit"] == 1250
    assert not any(settings[offer] for offer in ("apiKeys", "keyRequired", "suggestions", "filesTranslation"))


@pytest.mark.parametrize(("method", "path", "body", "status", "said"), [
    ("POST", "/translate", b"{", 400, "JSON object in UTF-8"),
    ("POST", "/translate", b"\xff", 400, "UTF-8"),
    ("POST", "/translate", b"[" * 4000, 400, "JSON"),
    ("POST", "/translate", [], 400, "q"),
    ("POST", "/translate", {}, 400, "q is missing"),
    ("POST", "/translate", {"q": [1]}, 400, "q is missing"),
    ("POST", "/translate", {"q": "x", "source": "de"}, 400, "de to en is not served; zh to en is"),
    ("POST", "/translate", {"q": "x", "target": "fr"}, 400, "fr"),
    ("POST", "/translate", {"q": "x", "source": ["zh"]}, 400, "not served"),
    ("POST", "/translate", {"q": "x", "format": "pdf"}, 400, "text and html are"),
    ("POST", "/translate", {"q": "x", "format": ["html"]}, 400, "is not served"),
    ("POST", "/translate", {"q": "<p>x</p>" * 61, "format": "html"}, 413, "61 lines"),
    ("POST", "/detect", {}, 400, "q is missing"),
    *(("POST", "/translate", {"q": "x", "alternatives": wrong}, 400, "alternatives")
      for wrong in ("many", float("inf"), 1.9, True, None, -1, 11, "1" * 4900)),
    ("POST", "/translate", {"q": "\n" * 60}, 413, "61 lines"),
    ("POST", "/translate", {"q": "x" * 6000}, 413, "5,000 bytes"),
    ("POST", "/attention", {"q": "a\nb"}, 400, "one line"),
    ("POST", "/attention", {"q": "x", "source": "de"}, 400, "de to en is not served"),
    ("GET", "/translate", None, 405, "Method Not Allowed"),
    ("GET", "/nosuch", None, 404, "Not Found"),
])
def test_what_it_cannot_do_is_a_json_error(server: Served, method: str, path: str, body: Any, status: int,
                                           said: str) -> None:
    found, answer = server.ask(method, path, body)
    assert found == status
    assert said in answer["error"]


def test_html_that_would_take_long_to_read_is_refused(run: Path) -> None:
    served = Served(run, "--max-bytes", "300000")
    try:
        for q in ('<a b="' * 20_000, ['<a b="' * 10_000] * 3):
            status, answer = served.ask("POST", "/translate", {"q": q, "format": "html"})
            assert status == 413 and "too many tags" in answer["error"]
        assert served.ask("POST", "/translate", {"q": "<p>-</p>" * 4_000, "format": "html"})[0] == 200
    finally:
        served.stop()


def test_html_keeps_its_tags_and_each_piece_is_translated(server: Served, run: Path) -> None:
    one, two = Translator.load(run).translate(LINES[:2])
    page = f"<p class=x> {LINES[0]}<br/>\n<b>{LINES[1]}</b> &mdash; 1</p><script>'{LINES[0]}'</script>"
    wanted = page.replace(f" {LINES[0]}<", f" {one}<").replace(LINES[1], two)
    answer = server.ask("POST", "/translate", {"q": page, "format": "html"})
    assert answer == (200, {"translatedText": wanted})
    several = server.ask("POST", "/translate", {"q": ["<hr>", page], "format": "html", "alternatives": 1})[1]
    best, second = ([each[k].text for each in Translator.load(run).candidates(LINES[:2], 2)] for k in range(2))
    assert several["translatedText"] == ["<hr>", wanted.replace(f" {one}<", f" {best[0]}<").replace(
        f"<b>{two}", f"<b>{best[1]}")]
    assert several["alternatives"][0] == []
    assert several["alternatives"][1][0].startswith(f"<p class=x> {second[0]}<br/>\n<b>{second[1]}</b>")


def test_the_language_is_said(server: Served) -> None:
    assert server.ask("POST", "/detect", {"q": LINES[0]}) == (200, [{"language": "zh", "confidence": 100.0}])
    found = server.ask("POST", "/detect", {"q": "Das ist der Hund und ich bin nicht die Katze."})[1]
    assert found[0]["language"] == "de"
    assert found == sorted(found, key=lambda each: -each["confidence"])
    assert server.ask("POST", "/detect", {"q": "Xyzzy"})[1] == [{"language": "und", "confidence": 0.0}]


def test_a_body_without_a_length_has_the_same_limit(server: Served) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(b"POST /translate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                       + b"3e8\r\n" + b"x" * 1000 + b"\r\n")
        for _ in range(6):
            client.sendall(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 413")
    assert server.ask("GET", "/health")[0] == 200


def test_many_at_once_get_what_they_would_get_alone(server: Served, run: Path) -> None:
    wanted = dict(zip(LINES, Translator.load(run).translate(LINES), strict=True))
    with ThreadPoolExecutor(24) as crowd:
        found = list(crowd.map(lambda i: server.ask("POST", "/translate", {"q": LINES[i:i + 1 + i % 7]}), range(96)))
    for i, (status, answer) in enumerate(found):
        assert status == 200
        assert answer["translatedText"] == [wanted[line] for line in LINES[i:i + 1 + i % 7]]


def test_a_signal_before_it_listens_to_them_ends_it_too(run: Path) -> None:
    assert Served(run).stop(signal.SIGTERM) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_what_was_asked_is_answered(run: Path, number: int) -> None:
    served = Served(run, "--max-bytes", "900000", "--max-lines", "5000")
    answers: list[tuple[int, Any]] = []
    asking = threading.Thread(target=lambda: answers.append(served.ask("POST", "/translate", {"q": LINES * 8})))
    asking.start()
    time.sleep(0.3)                      # until the request has been read: it takes longer than that
    assert served.stop(number) == (0, "")
    asking.join()
    assert [status for status, _ in answers] == [200]
    assert len(answers[0][1]["translatedText"]) == 8 * len(LINES)


def test_it_says_why_it_cannot_serve(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for argv, said in (([str(run), "--port", port], "Cannot listen on 127.0.0.1"),
                           ([str(run), "--port", "70000"], "--port 70000"), ([str(run), "--source", "x!"], "--source"),
                           ([str(run), "--timeout", "0"], "--timeout"), ([str(tmp_path / "no")], "does not exist")):
            assert main(["serve", *argv]) == 2
            assert said in capsys.readouterr().err


class Slow:
    """A translator that takes its time, and fails where it is told to."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.calls: list[int] = []

    def translate(self, lines: list[str]) -> list[str]:
        self.go.wait(30)
        self.calls.append(len(lines))
        if "fail" in lines:
            raise ValueError("told to")
        return [line.upper() for line in lines]


def test_who_waits_is_served_fairly_late_ones_are_told_and_too_many_refused() -> None:
    slow = Slow()
    line = Line(slow, 300)  # type: ignore[arg-type]
    first = line.add(["a"], 1, 30)
    late = line.add(["b"], 1, -1.0)
    long, short = line.add(["c"] * 200, 1, 30), line.add(["d"], 1, 30)
    with pytest.raises(Busy):
        line.add(["e"] * 99, 1, 30)
    slow.go.set()
    assert first.result(30) == [["A"]] and short.result(30) == [["D"]]
    assert long.result(30) == [["C"]] * 200
    assert isinstance(late.exception(30), Late)
    assert max(slow.calls) <= 64
    assert isinstance(line.add(["fail"], 1, 30).exception(30), ValueError)
    assert line.add(["f"], 1, 30).result(30) == [["F"]]
    line.close()


def test_languages_are_guessed_from_text(run: Path) -> None:
    assert languages.guess(["The cat is on the table and I like it."]) == "en"
    assert languages.guess(["Die Katze ist nicht auf dem Tisch."]) == "de"
    assert languages.guess(["Le chat est sur la table et je le vois."]) == "fr"
    assert languages.guess(["我喜欢猫。"]) == "zh"
    assert languages.guess([]) == languages.guess(["xyzzy"]) == "und"
    assert languages.of_run(run, None, "pt-BR") == ("zh", "pt-BR")
