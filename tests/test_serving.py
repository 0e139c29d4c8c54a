"""The server, over real sockets: what it answers, what it refuses, many at once, and how it ends."""
from __future__ import annotations

import http.client
import json
import shutil
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

import engine
from microtfm import languages, train
from microtfm.cli import main
from microtfm.translator import Translator

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
    assert cut["translatedText"] == translator.translate(["".join(LINES)])[0]
    assert cut["notices"] == translator.notices and "translated in pieces" in cut["notices"][0]
    page = server.ask("POST", "/translate", {"q": f"<p>{LINES[0]}<p>{''.join(LINES)}", "format": "html"})[1]
    assert "1 of 2 pieces of text between tags (number 2) had" in page["notices"][0]
    other = server.ask("POST", "/translate", {"q": "one two three four"})[1]
    translator.translate(["one two three four"])
    assert other["notices"] == translator.notices and "in Latin letters" in other["notices"][0]
    assert server.ask("GET", "/languages") == (200, [{"code": "zh", "name": "Chinese", "targets": ["en"]},
                                                     {"code": "en", "name": "English", "targets": []}])
    assert server.ask("GET", "/health") == (200, {"status": "ok"})
    assert "<textarea" in server.ask("GET", "/")[1]
    assert server.ask("POST", "/attention", {"q": LINES[0]})[1]["svg"].startswith("<svg")


def _multipart(asked: dict[str, Any], mark: str) -> bytes:
    parts = "".join(f'--{mark}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
                    for name, value in asked.items())
    return f"{parts}--{mark}--\r\n".encode()


TWO_LINES = {"q": "\r\n".join(LINES[:2]), "source": "zh", "target": "en"}


@pytest.mark.parametrize(("kind", "body"), [
    ("application/x-www-form-urlencoded", urlencode(TWO_LINES).encode()),
    ("multipart/form-data; boundary=a-mark", _multipart(TWO_LINES, "a-mark"))])
def test_a_form_asks_as_json_does(server: Served, run: Path, kind: str, body: bytes) -> None:
    answer = server.ask("POST", "/translate", body, **{"Content-Type": kind})
    assert answer == (200, {"translatedText": "\n".join(Translator.load(run).translate(LINES[:2]))})


def test_an_address_and_a_form_with_several_texts_ask_as_json_does(server: Served, run: Path) -> None:
    query = urlencode({"q": LINES[:2], "source": "zh", "format": "", "alternatives": ""}, doseq=True)
    wanted = (200, {"translatedText": Translator.load(run).translate(LINES[:2])})
    assert server.ask("POST", f"/translate?{query}") == wanted
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert server.ask("POST", "/translate?source=zh", query.encode(), **form) == wanted
    assert server.ask("POST", "/translate", {"q": LINES[:2], "format": None, "alternatives": None}) == wanted
    assert server.ask("POST", "/translate?source=de", query.replace("source", "x").encode(), **form)[0] == 400
    status, answer = server.ask("POST", "/translate", b"q=%FF", **form)
    assert status == 400 and "a form in UTF-8" in answer["error"]


@pytest.mark.parametrize("body", [b"", b"no parts at all", b"--other\r\n\r\nx\r\n--other--",
                                  b'--m\r\nContent-Disposition: form-data; name="q"\r\n\r\n\xff\r\n--m--'])
def test_a_broken_form_is_refused(server: Served, body: bytes) -> None:
    status, answer = server.ask("POST", "/translate", body, **{"Content-Type": "multipart/form-data; boundary=m"})
    assert status == 400 and ("or a form" in answer["error"] or "q is missing" in answer["error"])


def test_the_first_line_says_where_it_computes_and_why(server: Served) -> None:
    assert engine.choose_device("auto")[1].partition(",")[0] in server.said


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
    assert settings["language"]["source"] == {"code": "zh", "name": "Chinese"} and settings["charLimit"] == 333
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
    ("POST", "/translate", {"q": "x", "format": []}, 400, "is not served"),
    ("POST", "/translate", {"q": "<p>x</p>" * 61, "format": "html"}, 413, "61 pieces of text between tags"),
    ("POST", "/detect", {}, 400, "q is missing"),
    *(("POST", "/translate", {"q": "x", "alternatives": wrong}, 400, "alternatives")
      for wrong in ("many", float("inf"), 1.9, True, False, [], -1, 11, "1" * 4900)),
    ("POST", "/translate", {"q": "\n" * 60}, 413, "61 lines"),
    ("POST", "/translate", {"q": "x" * 6000}, 413, "5,000 bytes"),
    ("POST", "/attention", {"q": "a\nb"}, 400, "one line"),
    ("POST", "/attention", {"q": "".join(LINES)}, 400, "is translated in 8 pieces"),
    ("POST", "/attention", {"q": "x", "source": "de"}, 400, "de to en is not served"),
    ("GET", "/translate", None, 405, "Method Not Allowed"),
    ("GET", "/nosuch", None, 404, "Not Found"),
])
def test_what_it_cannot_do_is_a_json_error(server: Served, method: str, path: str, body: Any, status: int,
                                           said: str) -> None:
    found, answer = server.ask(method, path, body)
    assert found == status
    assert said in answer["error"]


def test_html_with_thousands_of_tags_or_broken_ones_is_read_soon(run: Path) -> None:
    served = Served(run, "--max-bytes", "300000")
    try:
        for q in ('<a b="' * 20_000, ['<a b="' * 10_000] * 3, "<p>-</p>" * 4_000, "<code><b>" * 20_000):
            assert served.ask("POST", "/translate", {"q": q, "format": "html"}) == (200, {"translatedText": q})
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


def _asking(served: Served, body: Any, answers: list[tuple[int, Any]]) -> threading.Thread:
    thread = threading.Thread(target=lambda: answers.append(served.ask("POST", "/translate", body)))
    thread.start()
    return thread


ENDLESS = {"q": "".join(LINES) * 200}    # one line that takes far longer than any limit here


@pytest.fixture(scope="module")
def wide(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run with a beam that makes long text take long."""
    path = tmp_path_factory.mktemp("runs") / "wide"
    shutil.copytree(run, path)
    config = path / "config.toml"
    config.write_text(config.read_text(encoding="utf-8").replace("\nbeam = 1\n", "\nbeam = 600\n"), encoding="utf-8")
    return path


def test_a_long_text_is_given_up_at_the_limit_and_others_are_served_in_between(wide: Path) -> None:
    translator = Translator.load(wide)
    wanted, best, _ = translator.translate(LINES[:1])[0], translator.candidates(LINES[:1], 4)[0], translator.attention(
        LINES[0])                        # which also compiles what the server needs in these few seconds
    served = Served(wide, "--max-bytes", "900000", "--timeout", "4")
    try:
        answers: list[tuple[int, Any]] = []
        began = time.monotonic()
        asking = _asking(served, ENDLESS, answers)
        time.sleep(0.5)
        assert served.ask("POST", "/translate", {"q": LINES[0]}) == (200, {"translatedText": wanted})
        several = served.ask("POST", "/translate", {"q": LINES[0], "alternatives": 3})[1]
        assert [several["translatedText"], *several["alternatives"]] == [each.text for each in best]
        assert served.ask("POST", "/attention", {"q": LINES[0]})[0] == 200
        assert not answers
        asking.join()
        assert time.monotonic() - began < 4 + 3
        assert answers[0][0] == 504 and "took too long" in answers[0][1]["error"]
    finally:
        served.process.kill()
        served.process.communicate()


def test_a_signal_ends_it_at_the_limit_whatever_is_under_way(wide: Path) -> None:
    served = Served(wide, "--max-bytes", "900000", "--timeout", "2")
    answers: list[tuple[int, Any]] = []
    asking = _asking(served, ENDLESS, answers)
    time.sleep(0.5)
    began = time.monotonic()
    assert served.stop() == (0, "")
    assert time.monotonic() - began < 2 + 8
    asking.join()
    assert [status for status, _ in answers] == [504]


def test_a_second_signal_ends_it_at_once(wide: Path) -> None:
    served = Served(wide, "--max-bytes", "900000")
    answers: list[tuple[int, Any]] = []
    asking = _asking(served, ENDLESS, answers)
    time.sleep(0.5)
    served.process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert served.stop(signal.SIGINT) == (0, "")
    asking.join()
    assert answers[0][0] == 503 and "stopping" in answers[0][1]["error"]


def test_what_a_client_asked_who_is_gone_is_dropped(wide: Path) -> None:
    served = Served(wide, "--max-bytes", "900000", "--timeout", "600")
    body = json.dumps(ENDLESS).encode()
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as client:
        client.sendall(b"POST /translate HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        time.sleep(0.5)
    began = time.monotonic()
    assert served.stop() == (0, "")
    assert time.monotonic() - began < 10


def test_a_signal_ends_it_though_a_client_does_not_take_its_answer(run: Path) -> None:
    served = Served(run, "--max-bytes", "20000000", "--timeout", "5")
    body = json.dumps({"q": f"<!--{'x' * 12_000_000}-->", "format": "html"}).encode()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", served.port))
        client.sendall(b"POST /translate HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert client.recv(10)
        assert served.stop() == (0, "")


@pytest.mark.parametrize("letter", ["三", "😀", "a", "\n"])
def test_as_many_characters_as_are_promised_fit(run: Path, letter: str) -> None:
    served = Served(run, "--max-bytes", "5000", "--max-lines", "400")
    try:
        asked = {"q": letter * served.ask("GET", "/frontend/settings")[1]["charLimit"], "source": "zh", "target": "en",
                 "format": "text", "alternatives": 1, "api_key": "0" * 36}
        mark = "-" * 24 + "0123456789abcdef"
        for kind, body in (("application/json", json.dumps(asked).encode()),
                           ("application/x-www-form-urlencoded", urlencode(asked).encode()),
                           (f"multipart/form-data; boundary={mark}", _multipart(asked, mark))):
            assert served.ask("POST", "/translate", body, **{"Content-Type": kind})[0] == 200
    finally:
        served.stop()


def test_it_says_why_it_cannot_serve(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for argv, said in (([str(run), "--port", port], "Cannot listen on 127.0.0.1"),
                           ([str(run), "--port", "70000"], "--port 70000"), ([str(run), "--source", "x!"], "--source"),
                           ([str(run), "--timeout", "0"], "--timeout"), ([str(tmp_path / "no")], "does not exist")):
            assert main(["serve", *argv]) == 2
            assert said in capsys.readouterr().err


def test_languages_are_guessed_from_text(run: Path) -> None:
    assert languages.guess(["The cat is on the table and I like it."]) == "en"
    assert languages.guess(["Die Katze ist nicht auf dem Tisch."]) == "de"
    assert languages.guess(["Le chat est sur la table et je le vois."]) == "fr"
    assert languages.guess(["我喜欢猫。"]) == "zh"
    assert languages.guess([]) == languages.guess(["xyzzy"]) == "und"
    assert languages.of_run(run, None, "pt-BR") == ("zh", "pt-BR")
