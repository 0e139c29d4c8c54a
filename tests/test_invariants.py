"""Results that do not depend on how they were computed: the same translations by every way in, the same updates."""
from __future__ import annotations

import io
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import corpus, settings

import engine
from microtfm import data, decode, session, tokens
from microtfm.cli import main
from microtfm.learner import Learner, tensors_in
from microtfm.optim import SGD
from microtfm.settings import TrainSettings
from microtfm.transformer import Transformer
from microtfm.translator import Translator

RUN = Path(__file__).parent / "old_runs" / "format-1"
LINES = [*(line.split("\t")[0] for line in (RUN.parent / "format-1.tsv").read_text(encoding="utf-8").splitlines()),
         "", "六五四三二一", "abc 😀", "一" * 130, " \u3000"]
NASTY = ["一\u2028二", "\u0085", "三\v四\f五\x1c\x1d\x1e", "六\u2029", "\0一\0", "a\rb", "\ufeff一", "", "\t", "二"]


@pytest.fixture(scope="module")
def expected() -> dict[int, list[str]]:
    """Greedy and beam translations, each line by itself."""
    model = Translator.load(RUN)
    return {beam: [model.translate([line], beam=beam)[0] for line in LINES] for beam in (1, 4)}


@pytest.mark.parametrize("beam", [1, 4])
def test_a_line_translates_the_same_in_any_batch_order_and_way(beam: int, expected: dict[int, list[str]],
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    model = Translator.load(RUN)
    assert model.translate(LINES, beam=beam) == expected[beam]
    order = random.Random(0).sample(range(len(LINES)), len(LINES))
    assert model.translate([LINES[i] for i in order], beam=beam) == [expected[beam][i] for i in order]
    short = [i for i, line in enumerate(LINES) if len(line) < 10]
    assert model.translate([LINES[i] for i in short], beam=beam, cache=False) == [expected[beam][i] for i in short]
    for size in (3, 7):
        assert [text for i in range(0, len(LINES), size)
                for text in model.translate(LINES[i:i + size], beam=beam)] == expected[beam]
    monkeypatch.setattr(session.engine, "replay", tensors_in)            # no step is recorded and replayed
    assert Translator.load(RUN).translate(LINES, beam=beam) == expected[beam]


def test_the_python_interface_a_file_standard_input_and_the_prompt_agree(
        expected: dict[int, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch) -> None:
    said = "".join(f"{text}\n" for text in expected[1])
    content = "".join(f"{line}\n" for line in LINES).encode()
    (tmp_path / "in.txt").write_bytes(content)
    assert main(["translate", str(RUN), "--beam", "1", "--file", str(tmp_path / "in.txt"), "--quiet"]) == 0
    assert capsys.readouterr().out == said
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert main(["translate", str(RUN), "--beam", "1", "--quiet"]) == 0
    assert capsys.readouterr().out == said
    typed = iter([*(line for line in LINES if line.strip()), ""])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed))
    assert main(["translate", str(RUN), "--beam", "1", "--quiet"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-sum(bool(text) for text in expected[1]):] == [text for text in expected[1] if text]


@pytest.mark.parametrize("threads", ["1", "2"])
def test_threads_change_nothing(threads: str, expected: dict[int, list[str]]) -> None:
    found = subprocess.run([sys.executable, "-m", "microtfm.cli", "translate", str(RUN), "--beam", "1", "--threads",
                            threads, "--quiet"], input="".join(f"{line}\n" for line in LINES).encode(),
                           capture_output=True, env={**os.environ, "PYTHONPATH": str(RUN.parents[2])})
    assert found.stdout.decode() == "".join(f"{text}\n" for text in expected[1]), found.stderr.decode()


@pytest.mark.parametrize("ending", ["\n", "\r\n", ""])
@pytest.mark.parametrize("way", ["file", "standard input"])
def test_as_many_lines_come_out_as_go_in(way: str, ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the line feed ends a line, whatever is in it; blank lines stay blank."""
    content = b"\xef\xbb\xbf" + ((ending or "\n").join(NASTY) + ending).encode()
    (tmp_path / "in.txt").write_bytes(content)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert main(["translate", str(RUN), *(["--file", str(tmp_path / "in.txt")] if way == "file" else [])]) == 0
    out = capsys.readouterr().out
    rows = out.split("\n")
    assert rows.pop() == "" and len(rows) == len(NASTY)
    assert len(out.splitlines()) == len(NASTY)
    assert [bool(row) for row in rows] == [bool(tokens.normalise(line)) for line in NASTY]


@pytest.mark.parametrize("way", ["file", "standard input"])
def test_nothing_in_nothing_out(way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in.txt").write_bytes(b"")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert main(["translate", str(RUN), *(["--file", str(tmp_path / "in.txt")] if way == "file" else [])]) == 0
    assert capsys.readouterr().out == ""


def test_small_batches_summed_are_one_large_batch() -> None:
    """k batches of an update, divided once by all tokens, within float32 rounding; dropout off."""
    source, target = (tokens.train("char", [pair[side] for pair in corpus()[0]], 60)[0] for side in (0, 1))
    encoded, _ = data.encode(corpus()[0][:30], source, target)
    chosen = settings(RUN)

    def updated(*groups: range) -> dict[str, np.ndarray]:
        engine.seed(3)
        model = Transformer(chosen.model, len(source), len(target))
        model.eval()
        learner = Learner(model, SGD(list(model.named_parameters()), 0.5, 0.9, 0.0), TrainSettings(clip_norm=1.0))
        batches = [data.batch(encoded, list(group)) for group in groups]
        learner(batches, 0.5, sum(batch.tokens for batch in batches))
        return model.state_dict()

    whole = updated(range(30))
    for parts in ((range(15), range(15, 30)), (range(4), range(4, 11), range(11, 30)),
                  tuple(range(i, i + 1) for i in range(30))):
        for name, array in updated(*parts).items():
            np.testing.assert_allclose(array, whole[name], rtol=1e-5, atol=2e-6, err_msg=name)


def test_translations_are_cut_off_alike() -> None:
    """At the longest length that is allowed, too: greedy search with the cache and without."""
    model = Translator.load(RUN)
    ids = data.pad_sources([model.source.encode(line) for line in LINES[:6]])
    for longest in (1, 2, 5):
        assert decode.greedy(model.model, ids, longest) == decode.greedy(model.model, ids, longest, cache=False)
