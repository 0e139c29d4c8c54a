"""Thirty-three things that go wrong with text files: each is one clear line that says where, or a rule that is kept.

The rules: only the line feed ends a line; a byte order mark and carriage returns at line ends go; other white space,
and what Unicode calls a line end, is a space; text is NFC; pairs with an empty side are dropped and named; pairs that
repeat, or say the same on both sides, are counted and kept; sentences over the limit are counted and left out of
training; a literal <pad> is text like any other; what happens to a file while it is trained on changes nothing.
"""
from __future__ import annotations

import gzip
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from test_surviving import as_a_user
from test_train import Heard, folder_bytes
from tiny import corpus, pairs, settings

from microtfm import data, tokens, train
from microtfm.cli import main
from microtfm.errors import UserError
from microtfm.translator import Translator

SMALL = ["--model.d-model", "16", "--model.heads", "2", "--model.layers", "1", "--model.ffn", "32", "--tokens.kind",
         "char", "--tokens.size", "90", "--train.steps", "1", "--train.validate-sentences", "2", "--train.batch-tokens",
         "200"]
GOOD = [(a, b) for a, b in pairs()[:40]]


@dataclass
class Fault:
    """Bytes for the two files, what is said about them, and, where they are read, what becomes of a pair."""

    left: bytes
    right: bytes
    says: str = ""                       # in the one line of a refusal, or in a notice
    code: int = 2
    becomes: dict[int, tuple[str, str]] | None = None    # index of a pair: what it is read as
    count: int = 40                      # pairs that are read


def text(side: int, ending: str = "\n", **changes: str) -> bytes:
    """One side of the good pairs, with some lines replaced: text(0, line_3="x")."""
    lines = [pair[side] for pair in GOOD]
    for name, line in changes.items():
        lines[int(name[5:]) - 1] = line
    return (ending.join(lines) + ending).encode("utf-8", "surrogatepass")


LEFT, RIGHT = text(0), text(1)


def read(left: bytes, right: bytes = RIGHT, says: str = "", becomes: dict[int, tuple[str, str]] | None = None,
         count: int = 40) -> Fault:
    return Fault(left, right, says, 0, becomes, count)


LINE_ENDS = "一\u2028二\u0085三\v四\f五"
FAULTS = {
    "1 empty file": Fault(b"", RIGHT, r"a\.zh has 0 lines and .*a\.en has 40"),
    "3 one line fewer": Fault(text(0, line_7=""), RIGHT[:RIGHT[:-1].rindex(b"\n") + 1],
                              r"a\.zh has 40 lines and .*a\.en has 39.*apart at line 7, which is empty in .*a\.zh"),
    "4 no final newline": read(LEFT[:-1], becomes={39: GOOD[39]}),
    "5 carriage returns before line feeds": read(text(0, "\r\n"), becomes={0: GOOD[0], 39: GOOD[39]}),
    "6 carriage returns alone": Fault(text(0, "\r"), RIGHT, r"a\.zh ends its lines with a lone carriage return"),
    "7 byte order mark": read(b"\xef\xbb\xbf" + LEFT, becomes={0: GOOD[0]}),
    "8 UTF-16": Fault(LEFT.decode().encode("utf-16"), RIGHT, r"a\.zh is UTF-16 text"),
    "9 Latin-1": Fault(LEFT + b"caf\xe9\n", RIGHT + b"x\n", r"a\.zh, line 41: byte 0xE9 at position 4"),
    "10 cut off inside a character": Fault(LEFT[:-2], RIGHT, r"a\.zh, line 40: byte 0xE[0-9]"),
    "11 overlong and surrogate bytes": Fault(LEFT, text(1, line_5="\ud800"), r"a\.en, line 5: byte 0xED"),
    "12 NUL": Fault(text(0, line_9="一\0二"), RIGHT, r"a\.zh, line 9: a NUL byte"),
    "13 line ends that are none": read(text(0, line_4=LINE_ENDS), becomes={3: ("一 二 三 四 五", GOOD[3][1])}),
    "14 empty lines": read(text(0, line_3="", line_5=""), text(1, line_5="", line_8=""),
                           r"Dropped 3 pairs with an empty side in .*a\.zh.*lines 3, 5, 8", {2: GOOD[3]}, 37),
    "15 white space alone": read(text(0, line_6=" \u3000\t\xa0"), RIGHT, "Dropped 1 pair .* line 6", {5: GOOD[6]}, 39),
    "16 a line of a megabyte": read(text(0, line_2="一" * 350_000), RIGHT,
                                    r"Left out 1 pair of \d+ with more than 100"),
    "17 a million empty lines": read(LEFT + b"\n" * 10**6, RIGHT + b"\n" * 10**6, "Dropped 1,000,000 pairs.*line.* 41"),
    "18 pairs that repeat": read(text(0, line_2=GOOD[0][0]), text(1, line_2=GOOD[0][1]), "1 pair of 40 .* repeat"),
    "19 the same on both sides": read(LEFT, text(1, line_2=GOOD[1][0]), "1 pair of 40 .* the same text on both sides"),
    "20 literals": read(text(0, line_1="<pad> <bos>"), becomes={0: ("<pad> <bos>", GOOD[0][1])}),
    "21 right to left, and decomposed": read(text(0, line_1="שלום cafe\u0301"),
                                             becomes={0: ("שלום caf\xe9", GOOD[0][1])}),
    "22 emoji with joiners": read(text(0, line_1="👩‍👩‍👧 一"), becomes={0: ("👩‍👩‍👧 一", GOOD[0][1])}),
    "23 tabs": read(text(0, line_1="一\t二\t三"), becomes={0: ("一 二 三", GOOD[0][1])}),
    "28 gzip under another name": Fault(gzip.compress(LEFT), RIGHT, r"a\.zh is a gzip file"),
}


def files(folder: Path, left: bytes = LEFT, right: bytes = RIGHT) -> tuple[Path, Path]:
    (folder / "a.zh").write_bytes(left)
    (folder / "a.en").write_bytes(right)
    return folder / "a.zh", folder / "a.en"


def train_on(folder: Path, capsys: pytest.CaptureFixture[str], source: Path, target: Path) -> tuple[int, str, str]:
    code = main(["train", "--src", str(source), "--tgt", str(target), "--out", str(folder / "run"), *SMALL])
    return code, *capsys.readouterr()


def refused(folder: Path, capsys: pytest.CaptureFixture[str], source: Path, target: Path, says: str) -> None:
    code, _, error = train_on(folder, capsys, source, target)
    assert (code, error.count("\n")) == (2, 1) and re.search(says, error), error
    assert not (folder / "run").exists()


@pytest.mark.parametrize("name", FAULTS)
def test_contents(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train.curves, "draw", lambda metrics, picture: False)
    fault = FAULTS[name]
    source, target = files(tmp_path, fault.left, fault.right)
    if fault.code:
        refused(tmp_path, capsys, source, target, fault.says)
        return
    code, out, error = train_on(tmp_path, capsys, source, target)
    assert code == 0, error
    assert re.search(fault.says, out), out
    found = data.read_parallel(source, target).pairs
    assert len(found) == fault.count
    for index, pair in (fault.becomes or {}).items():
        assert found[index] == pair




OPENED: dict[str, tuple[Callable[[Path], object], str]] = {
    "2 missing": (lambda path: None, "does not exist"),
    "24 a folder": (lambda path: path.mkdir(), "is a folder"),
    "25 a FIFO": (os.mkfifo, "is not a plain file"),
    "27 a link to itself": (lambda path: path.symlink_to(path), "cannot be read: Too many levels of symbolic links"),
}


@pytest.mark.parametrize("name", OPENED)
def test_what_is_no_file(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, says = OPENED[name]
    source, _ = files(tmp_path)
    make(tmp_path / "odd")
    refused(tmp_path, capsys, tmp_path / "odd", source, rf"{tmp_path}/odd {says}")
    refused(tmp_path, capsys, source, tmp_path / "odd", rf"{tmp_path}/odd {says}")


def test_26_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    source, target = files(tmp_path)
    source.chmod(0)
    found = as_a_user("-m", "microtfm.cli", "train", "--src", str(source), "--tgt", str(target), "--out",
                      str(tmp_path / "run"), *SMALL)
    assert found.returncode == 2 and found.stderr == f"microtfm: {source} cannot be read: Permission denied.\n"
    assert not (tmp_path / "run").exists()


def test_29_a_file_that_changes_during_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It changes nothing in the run that has read it; but what is resumed must have read the same."""
    from dataclasses import replace
    monkeypatch.setattr(train.curves, "draw", lambda metrics, picture: False)
    source, target = files(tmp_path)

    def chosen(name: str) -> train.Settings:
        return replace(settings(tmp_path / name, steps=6), src=source, tgt=target)

    train.train(chosen("calm"))
    train.train(chosen("changed"), Heard(2, lambda: source.write_bytes(LEFT.replace("一".encode(), b"x"))))
    assert folder_bytes(tmp_path / "changed") == folder_bytes(tmp_path / "calm")
    with pytest.raises(UserError, match=r"The training text.* is not what it was when .*changed began"):
        train.resume(tmp_path / "changed")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.curves, "draw", lambda metrics, picture: False)
        path = tmp_path_factory.mktemp("faults") / "run"
        train.train(settings(path, steps=2), corpus=corpus())
        other = settings(path.parent / "other", steps=2)
        train.train(other, corpus=([(b, a) for a, b in corpus()[0]], [(b, a) for a, b in corpus()[1]]))
    return path


VOCABULARIES: dict[str, Callable[[list[str]], list[str]]] = {
    "30 a token twice": lambda pieces: [*pieces, pieces[0]],
    "31 a token missing": lambda pieces: pieces[1:],
    "32 tokens in another order": lambda pieces: pieces[::-1],
}


@pytest.mark.parametrize("name", VOCABULARIES)
@pytest.mark.parametrize("sealed", [False, True], ids=["edited", "sealed anew"])
def test_a_vocabulary_that_is_not_the_models(name: str, sealed: bool, run: Path, tmp_path: Path,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    path = copy / "tokenizer.target.json"
    record = json.loads(path.read_bytes())
    record["content"]["pieces"] = VOCABULARIES[name](record["content"]["pieces"])
    if sealed:
        record["sha256"] = tokens._digest(tokens.FORMAT, record["kind"], record["content"])
    path.write_text(json.dumps(record), encoding="utf-8")
    assert main(["translate", str(copy), "一"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert re.search(r"tokenizer\.target\.json|model\.safetensors was trained with another vocabulary", said)


def test_33_a_checkpoint_of_another_vocabulary(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    shutil.copy(run.parent / "other" / "model.safetensors", copy)
    assert main(["translate", str(copy), "一"]) == 2
    assert re.search(r"model\.safetensors belongs to another run", capsys.readouterr().err)
    assert Translator.load(run).translate([""]) == [""]


def test_all_thirty_three_are_here() -> None:
    names = [*FAULTS, *OPENED, *VOCABULARIES, "26", "29", "33"]
    assert sorted(int(name.split()[0]) for name in names) == list(range(1, 34))
