"""Translating as a tool: several translations and alternatives, scores of given ones, pipes, and the prompt."""
from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import corpus, pairs, settings

from engine.kernels.cpu import jit_disabled
from microtfm import decode, prompt, train, translating
from microtfm.cli import main
from microtfm.data import pad_sources
from microtfm.errors import UserError
from microtfm.translating import Wish
from microtfm.translator import Translator

LINES = [a for a, _ in pairs()[:6]]
COMMAND = [sys.executable, "-m", "microtfm.cli", "translate"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    train.train(replace(settings(path, steps=60, validate_every=60), beam=3, length_penalty=0.5), corpus=corpus())
    return path


@pytest.fixture(scope="module")
def translator(run: Path) -> Translator:
    return Translator.load(run)


def test_the_runs_own_search_is_used_where_none_is_asked_for(run: Path, translator: Translator,
                                                             capsys: pytest.CaptureFixture[str]) -> None:
    assert (translator.beam, translator.length_penalty) == (3, 0.5)
    assert translator.translate(LINES) == translator.translate(LINES, 3, 0.5)
    assert main(["evaluate", str(run), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["beam"], answer["length_penalty"]) == (3, 0.5)
    assert main(["evaluate", str(run), "--json", "--tokenize", "none"]) == 0
    assert "tok:none" in json.loads(capsys.readouterr().out)["bleu_signature"]
    assert main(["evaluate", str(run), "--json", "--beam", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["beam"] == 1


@pytest.mark.parametrize("beam", [None, 1, 4, 6])
def test_candidates_are_the_translation_and_the_best_others_of_the_search(translator: Translator, beam: int | None
                                                                          ) -> None:
    found = translator.candidates([*LINES, ""], n=4, beam=beam)
    assert [each[0].text for each in found] == translator.translate([*LINES, ""], beam=beam)
    assert found[-1][0].text == "" and len(found[-1]) == 1
    for line, several in zip(LINES, found, strict=False):
        others = several if (beam or 3) >= 4 else several[1:]
        assert [each.score for each in others] == sorted((each.score for each in others), reverse=True)
        assert len({each.text for each in several}) == len(several) <= 4
        assert translator.candidates([line], n=4, beam=beam)[0] == several


def test_scores_are_what_a_search_found(translator: Translator) -> None:
    """The value of a hypothesis is its log-probability under forced decoding over its length to the power of A."""
    source = pad_sources([translator.source.encode(LINES[0])])
    value, ids = decode.n_best(translator.model, source, 3, 0.5)[0][0]
    text = translator.target.decode(ids)
    scored = translator.score([LINES[0]], [text])[0]
    assert scored.tokens == [*translator.target.pieces(ids), "<eos>"]
    assert value == pytest.approx(scored.log_probability / (len(ids) + 1) ** 0.5, rel=1e-5)
    if jit_disabled():
        pytest.skip("NumPy's products, which run without kernels, give other bits in another batch")
    together = translator.score([*LINES, LINES[0]], ["one", "one two three four", "", "x", text, "two", text])
    assert together[4] == translator.score([LINES[4]], [text])[0]
    assert together[6] == scored and together[2].tokens == ["<eos>"]
    with pytest.raises(UserError, match="1 source texts and 2 translations"):
        translator.score(["一"], ["one", "two"])


def test_alternatives_are_probabilities_of_each_place(translator: Translator) -> None:
    choices = translator.alternatives(LINES[1], n=3, beam=1)
    assert [each.token for each in choices][-1] == "<eos>"
    assert translator.translate([LINES[1]], beam=1) == [" ".join(each.token for each in choices[:-1])]
    for each in choices:
        others = [p for _, p in each.others]
        assert len(others) == 3 and others == sorted(others, reverse=True)
        assert each.token not in dict(each.others) and 0 < each.probability + sum(others) <= 1 + 1e-6


def test_alternatives_are_those_of_the_translation_that_is_given(translator: Translator, run: Path,
                                                                 capsys: pytest.CaptureFixture[str],
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Translator, "load", lambda folder: translator)
    for length in ("max_length", "piece_length"):
        monkeypatch.setattr(translator, length, 3)
    lines = [LINES[0], "", LINES[1] + LINES[2], "  "]
    for more in ([], ["--nbest", "5"], ["--beam", "1"]):
        assert main(["translate", str(run), *lines, "--alternatives", "--json", *more]) == 0
        for each in json.loads(capsys.readouterr().out)["translations"]:
            words = [token["token"] for token in each["tokens"]]
            assert " ".join(word for word in words if word != "<eos>") == each["translation"]
    assert words == []
    assert [each.token for each in translator.alternatives(lines[2])].count("<eos>") == 2


def test_a_text_in_place_of_a_list_is_refused(translator: Translator) -> None:
    with pytest.raises(UserError, match="brackets"):
        translator.translate("一二三")


def test_several_translations_and_json(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["translate", str(run), *LINES[:2], "--nbest", "3", "--alternatives", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    first = answer["translations"][0]
    assert first["source"] == LINES[0] and first["nbest"][0]["text"] == first["translation"]
    assert len(first["nbest"]) == 3 and first["tokens"][-1]["token"] == "<eos>"
    assert main(["translate", str(run), *LINES[:2], "--nbest", "3"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["1"] * 3 + ["2"] * 3
    assert main(["translate", str(run), LINES[0], "--alternatives"]) == 0
    assert "or" in capsys.readouterr().out.splitlines()[1]
    assert main(["translate", str(run), "x", "--nbest", "0"]) == 2
    assert "--nbest" in capsys.readouterr().err


def test_score_from_files(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "both.tsv").write_text("一二三\tthree two one\n一二\ttwo one\n", encoding="utf-8")
    assert main(["score", str(run), "--src", str(tmp_path / "both.tsv"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    sums = [sum(token["log_probability"] for token in each["tokens"]) for each in answer["scores"]]
    assert sums == pytest.approx([each["log_probability"] for each in answer["scores"]])
    assert answer["tokens"] == 7 and answer["perplexity"] == pytest.approx(np.exp(-sum(sums) / 7))
    assert main(["score", str(run), "--src", str(tmp_path / "both.tsv"), "--tokens"]) == 0
    out = capsys.readouterr().out
    assert "<eos>" in out and "perplexity" in out and len(out.splitlines()) == 5
    (tmp_path / "both.tsv").write_text("一二。三。\tthree two one\n一二\ttwo one\n", encoding="utf-8")
    assert main(["score", str(run), "--src", str(tmp_path / "both.tsv")]) == 0
    assert "1 of 2 sources would be translated in pieces" in capsys.readouterr().out
    (tmp_path / "both.tsv").write_text("\tone\n一二\ttwo one\n三\t\n一\tone\n", encoding="utf-8")
    assert main(["score", str(run), "--src", str(tmp_path / "both.tsv")]) == 0
    note, *rows, _ = capsys.readouterr().out.splitlines()
    assert "lines 1, 3" in note and [row.split()[0] for row in rows] == ["2", "4"]


def test_lines_are_answered_as_they_come(run: Path) -> None:
    """A program that sends a line and waits gets its translation before it sends the next."""
    with subprocess.Popen([*COMMAND, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                          encoding="utf-8") as process:
        assert process.stdin is not None and process.stdout is not None
        wanted = Translator.load(run).translate([*LINES[:2], "", LINES[2]])
        for line, translation in zip([*LINES[:2], "", LINES[2]], wanted, strict=True):
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
            assert process.stdout.readline() == f"{translation}\n"
        process.stdin.close()
        assert process.wait(30) == 0


def test_incoming_lines_are_whole_whatever_their_chunks() -> None:
    text = "\ufeff一\r\n二\u2028三\n\n四".encode()
    assert [line for part in translating.incoming(io.BytesIO(text)) for line in part] == ["一", "二\u2028三", "", "四"]
    assert not list(translating.incoming(io.BytesIO(b"")))
    seen: list[str] = []
    with pytest.raises(UserError, match="line 2: byte 0xE9"):
        for part in translating.incoming(io.BytesIO(b"ok\n\xe9\nmore\n")):
            seen += part
    assert seen == ["ok"]


def test_notices_of_standard_input_are_those_of_the_file(run: Path, tmp_path: Path,
                                                         capsys: pytest.CaptureFixture[str],
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [LINES[0]] * (translating.AT_ONCE + 40)
    for place in (0, 99, translating.AT_ONCE + 20):
        lines[place] = "".join(LINES) * 20
    (tmp_path / "x").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    said = []
    for arguments in (["--file", str(tmp_path / "x")], []):
        with (tmp_path / "x").open("rb") as file:
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(file))
            assert main(["translate", str(run), "--beam", "1", *arguments]) == 0
        said.append(capsys.readouterr())
    assert said[0] == said[1] and "3 of 552 lines (numbers 1, 100, 533)" in said[0].err


def test_a_reader_that_goes_away_ends_it_quietly(run: Path) -> None:
    lines = "\n".join(LINES * 500)
    command = f"{' '.join(COMMAND)} {run} | head -n 1"
    found = subprocess.run(["bash", "-c", command], input=lines, capture_output=True, text=True, timeout=120)
    assert found.stderr == "" and found.stdout.count("\n") == 1


def test_the_prompt_answers_sentences_and_commands(run: Path, translator: Translator, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    typed = iter([":attention", LINES[0], ":attention", ":beam", ":beam 2", ":beam two", ":alternatives", ":help",
                  ":nonsense", f" :{LINES[1]}", ":quit"])
    monkeypatch.setattr("builtins.input", lambda sign: next(typed))
    assert main(["translate", str(run)]) == 0
    out, err = capsys.readouterr()
    assert (tmp_path / "microtfm/history").exists() and "from now on a search of 2" in out
    assert translator.translate([f":{LINES[1]}"], 2)[0] in out.splitlines()
    assert translator.translate([LINES[0]])[0] in out.splitlines()
    for words in ("looked at", "attention.svg", "  or  ", ":alternatives", "There is no command :nonsense"):
        assert words in out
    assert "Type a sentence first" in err and ":beam two" in err
    assert (run / "attention.svg").exists()


def test_the_prompt_heeds_interrupts_and_loads_beside(run: Path, translator: Translator,
                                                      tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    def typed(sign: str) -> str:
        line = next(lines)
        if isinstance(line, BaseException):
            raise line
        return line

    lines = iter([KeyboardInterrupt(), LINES[1], EOFError()])
    monkeypatch.setattr("builtins.input", typed)
    assert prompt.run(run, Wish()) == 0
    assert translator.translate([LINES[1]])[0] in capsys.readouterr().out
    with pytest.raises(UserError, match="does not exist"):
        prompt.run(run / "nosuch", Wish())


def test_no_colour_where_none_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from microtfm.progress import Report

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for variables, coloured in (({"TERM": "xterm", "COLORTERM": "truecolor"}, True), ({"NO_COLOR": "1"}, False)):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        stream = Terminal()
        Report(stream).notice("careful")
        assert ("\x1b[33m" in stream.getvalue()) == coloured


def test_quiet_training_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "both.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in pairs()), encoding="utf-8")
    small = ["--model.d-model", "16", "--model.heads", "2", "--model.layers", "1", "--train.steps", "2",
             "--tokens.kind", "char", "--quiet"]
    assert main(["train", "--src", str(tmp_path / "both.tsv"), "--out", str(tmp_path / "run"), *small]) == 0
    assert capsys.readouterr() == ("", "")
    assert (tmp_path / "run/model.safetensors").exists()
