"""The command: what it prints, what it returns, and that a wrong word is answered in one paragraph."""
from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import corpus, pairs, settings, text_files

from microtfm import train
from microtfm.cli import COMMANDS, main
from microtfm.run_folder import RunFolder

SMALL = ["--model.d-model", "16", "--model.heads", "2", "--model.layers", "1", "--model.ffn", "32"]
TINY = [*SMALL, "--tokens.kind", "char", "--tokens.size", "60", "--train.steps", "4", "--train.batch-tokens", "100",
        "--train.validate-every", "4", "--train.validate-sentences", "8", "--train.log-every", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    train.train(settings(path, steps=20, validate_every=20), corpus=corpus())
    return path


def complaint(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one paragraph that a wrong command prints."""
    assert main(list(argv)) == 2
    said = capsys.readouterr().err
    assert said.startswith("microtfm: ")
    assert said.count("\n") == 1
    assert "Traceback" not in said
    return said


def test_help_is_light() -> None:
    code = ("import sys; from microtfm.cli import main; main(['train', '--help'])\n"
            "heavy = ('numpy', 'numba', 'engine', 'sacrebleu', 'sentencepiece')\n"
            "print([m for m in heavy if m in sys.modules])")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.endswith("[]\n")
    assert "--train.batch-tokens" in out


def test_stopping_while_modules_are_loaded_is_one_line() -> None:
    code = ("import sys\n"
            "class Stop:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            "        if name == 'cyclopts':\n"
            "            raise KeyboardInterrupt\n"
            "sys.meta_path.insert(0, Stop())\n"
            "from microtfm.entry import main\n"
            "sys.exit(main())")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (130, "microtfm: Stopped before it began.\n")


@pytest.mark.parametrize("command", ["demo", "train", "resume", "translate", "evaluate", "info"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert "Usage: microtfm" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_no_command_shows_the_help_of_all(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    out = capsys.readouterr().out
    for name in COMMANDS:
        assert re.search(rf"^│ {name} +[A-Z]\w+ ", out, re.M), name


@pytest.mark.parametrize(("argv", "said"), [
    ("trian", "train"),
    ("train", "microtfm demo"),
    ("train --src x.zh", "x.zh does not exist"),
    ("train --tgt x.en", "--src"),
    ("train --train.lrr 3", "Did you mean --train.lr?"),
    ("train --sorce x", "Unknown option"),
    ("train --train.lr fast", "fast"),
    ("train --model.norm both", "post"),
    ("train --model.d-model 100 --model.heads 8", "d_model 96 or 104, or heads 4, 5, 10"),
    ("train --threads 0 --src x", "threads"),
    ("train --threads 100000 --src x", "--threads 100000 must be 1 to"),
    ("train --src m\udcff.en", "m\\udcff.en: the name is not UTF-8"),
    ("translate nosuch hello -o x.txt", "is for the picture"),
    ("translate nosuch hello --show beam --json", "goes with none of --json"),
    ("translate nosuch hello --beam 1001", "at most 1,000"),
    ("serve nosuch --timeout inf", "finite"),
    ("train nosuch.toml", "nosuch.toml"),
    ("resume", "RUN"),
    ("resume nosuch", "nosuch does not exist"),
    ("resume nosuch --model.layers 3", "Unknown option"),
    ("translate nosuch hello", "nosuch does not exist"),
    ("evaluate nosuch", "nosuch does not exist"),
    ("info nosuch", "nosuch does not exist"),
    ("demo --train.steps 0", "train.steps = 0"),
])
def test_a_wrong_word_is_answered_in_one_paragraph(argv: str, said: str, capsys: pytest.CaptureFixture[str],
                                                   tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert said.lower() in complaint(capsys, *argv.split()).lower()
    assert not list(tmp_path.iterdir())


def test_a_sentence_that_begins_with_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    assert "goes behind --" in complaint(capsys, "translate", "nosuch", "- Hallo")


def test_closed_streams_and_a_number_of_threads_that_is_none(folder: Path) -> None:
    for command, status, said in (
            ("translate {} <&-", 2, "There is no standard input"), ("translate {} 一 >&-", 0, ""),
            ("info {} >&-", 0, ""), ("average . ", 2, "holds a run")):
        found = subprocess.run(["bash", "-c", f"{sys.executable} -m microtfm.cli {command.format(folder)}"], cwd=folder,
                               capture_output=True, text=True, env={**os.environ, "NUMBA_DISABLE_JIT": "1"})
        assert found.returncode == status and said in found.stderr and found.stderr.count("\n") == (status == 2)
        (folder.parent / f"{folder.name}-average").mkdir(exist_ok=True)
        (folder.parent / f"{folder.name}-average" / "config.toml").touch()
    found = subprocess.run([sys.executable, "-m", "microtfm.cli", "translate", str(folder), "一"], capture_output=True,
                           text=True, env={**os.environ, "NUMBA_NUM_THREADS": "0"})
    assert found.returncode == 2 and "NUMBA_NUM_THREADS = 0" in found.stderr and found.stderr.count("\n") == 1


def test_a_typo_in_the_file_names_file_and_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[model]\nd_modle = 64\n", encoding="utf-8")
    said = complaint(capsys, "train", str(path))
    assert f"{path}: unknown setting model.d_modle. Did you mean model.d_model?" in said


def test_train_resume_evaluate_info_and_translate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = text_files(tmp_path)
    run = tmp_path / "run"
    assert main(["train", "--src", str(source), "--tgt", str(target), "--out", str(run), *TINY]) == 0
    out = capsys.readouterr().out
    for word in ("cpu", "parameters", "validation: loss", "BLEU", "->", "microtfm translate"):
        assert word in out
    assert "\x1b" not in out             # no colours, no bar where the output is piped
    assert main(["resume", str(run), "--train.steps", "6", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["step"], answer["reason"], answer["signal"]) == (6, "steps", None)
    assert main(["evaluate", str(run), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["sentences"] == 21
    assert "tok:13a" in scores["bleu_signature"]
    assert main(["evaluate", str(run), "--src", str(source), "--tgt", str(target), "--beam", "2", "--worst", "1"]) == 0
    assert re.search(r"BLEU    \d+\.\d\d   nrefs:1", capsys.readouterr().out)
    assert main(["info", str(run)]) == 0
    assert "model.d_model = 16" in capsys.readouterr().out
    assert main(["train", str(run / "config.toml"), "--out", str(tmp_path / "again"), "--train.steps", "1"]) == 0
    capsys.readouterr()
    assert "--force" in complaint(capsys, "train", str(run / "config.toml"))
    for name, lines in (("a", [f"{a}。{a}。" for a, _ in pairs()]), ("b", [f"{b}. {b}." for _, b in pairs()])):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    other = ["--src", str(tmp_path / "a"), "--tgt", str(tmp_path / "b"), "--out", str(tmp_path / "other"),
             "--train.steps", "1"]
    assert main(["train", str(run / "config.toml"), *other]) == 0
    assert RunFolder.open(run).settings.tokens.piece_length == 0     # what was measured there does not count here
    assert (RunFolder.open(tmp_path / "other").settings.tokens.piece_length or 0) > 4
    assert "'1.5' is not a whole number" in complaint(capsys, "train", "--train.cooldown", "1.5")


def test_text_that_is_not_there_is_said_in_the_command_s_own_words(folder: Path, tmp_path: Path,
                                                                   capsys: pytest.CaptureFixture[str]) -> None:
    source, target = text_files(tmp_path)
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    nothing = ["--src", str(empty), "--tgt", str(empty)]
    assert "nothing to evaluate in" in complaint(capsys, "evaluate", str(folder), *nothing)
    assert "nothing to score in" in complaint(capsys, "score", str(folder), *nothing)
    files = ["train", "--src", str(source), "--tgt", str(target), "--out", str(tmp_path / "run")]
    valid = ["--valid-src", str(empty), "--valid-tgt", str(empty)]
    assert "nothing to validate on in" in complaint(capsys, *files, *valid)
    assert "as --valid-tgt, or one TSV" in complaint(capsys, *files, "--valid-src", str(source))
    for command in (["train"], ["evaluate", str(folder)], ["score", str(folder)]):
        assert "as --tgt, or one TSV" in complaint(capsys, *command, "--src", str(source))


def test_info_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(folder), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["parameters"] == sum(answer["parameters_by_part"].values())
    assert answer["step"] == 20
    assert answer["settings"]["model"]["d_model"] == 16


def test_translate_arguments_file_and_standard_input(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [a for a, _ in pairs()[:5]]
    assert main(["translate", str(folder), *lines]) == 0
    said = capsys.readouterr().out
    assert len(said.splitlines()) == 5
    text = "\n".join(lines) + "\n"
    (tmp_path / "in.txt").write_text(text, encoding="utf-8")
    assert main(["translate", str(folder), "--file", str(tmp_path / "in.txt")]) == 0
    assert capsys.readouterr().out == said
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert main(["translate", str(folder)]) == 0
    assert capsys.readouterr().out == said
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n" + "一\u2028二\n".encode())))
    assert main(["translate", str(folder), "--beam", "2"]) == 0
    out = capsys.readouterr().out.split("\n")
    assert out[0] == ""
    assert len(out) == 3                 # two lines in, two lines out
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"ok\n\xe9\n")))
    assert "line 2" in complaint(capsys, "translate", str(folder))


def test_the_name_of_a_file_given_as_a_sentence_is_remarked(folder: Path, tmp_path: Path,
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "in.txt"
    path.write_text("x\n", encoding="utf-8")
    for text, remarked in ((str(path), True), (str(path) + "x", False), ("x" * 5000, False), ("a\0b", False)):
        assert main(["translate", str(folder), text]) == 0
        assert (f"--file {path}" in capsys.readouterr().err) == remarked
    assert main(["translate", str(folder), str(path), "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_translate_refuses_what_it_cannot_do(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--beam" in complaint(capsys, "translate", str(folder), "x", "--beam", "0")
    assert "not both" in complaint(capsys, "translate", str(folder), "x", "--file", "y")
    assert "UTF-8" in complaint(capsys, "translate", str(folder), "\udce9")


def test_a_prompt_where_there_is_a_person(folder: Path, capsys: pytest.CaptureFixture[str],
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(folder.parent))
    typed = iter(["一二三", ""])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed))
    assert main(["translate", str(folder)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_reader_that_goes_away_is_no_error(folder: Path) -> None:
    command = f"{sys.executable} -m microtfm.cli translate {folder} 一 二 三 | true"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True,
                           env={**os.environ, "NUMBA_DISABLE_JIT": "1"})
    assert found.stderr == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full")
def test_a_full_disk_behind_standard_output_is_one_line(folder: Path) -> None:
    command = f"{sys.executable} -m microtfm.cli translate {folder} 一 二 三 > /dev/full"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True,
                           env={**os.environ, "NUMBA_DISABLE_JIT": "1"})
    assert (found.returncode, found.stderr) == (2, "microtfm: No space left on device.\n")


def test_the_demo_in_miniature(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = [*SMALL, "--train.steps", "3", "--train.log-every", "1", "--train.validate-sentences", "10"]
    assert main(["demo", *small]) == 0
    out = capsys.readouterr().out
    run = Path("runs/demo")
    assert out.startswith("device  ") and out.count("device  ") == 1
    for word in ("sentence pairs", "unseen sentences exactly right", "BLEU", f"microtfm translate {run}",
                 "microtfm train"):
        assert word in out
    for name in ("curves.svg", "curves.html", "attention.svg", "model.safetensors"):
        assert (run / name).exists()
    last = json.loads((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert 0 <= last["exact_match"] <= 1
    assert "bleu" in last
    assert main(["demo", *small, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["folder"] == "runs/demo-2"
    assert answer["exact_match"] == last["exact_match"]
    for name in ("attention.svg", "exam.tsv"):
        (run / name).unlink()
    assert main(["resume", str(run), "--train.steps", "4"]) == 0
    assert "unseen sentences exactly right" in capsys.readouterr().out and (run / "attention.svg").exists()
    lines = (run / "metrics.jsonl").read_bytes()
    assert main(["resume", str(run)]) == 0
    assert "unseen sentences exactly right" in capsys.readouterr().out and (run / "metrics.jsonl").read_bytes() == lines
    own = ["--src", str(run / "train.tsv"), "--valid-src", str(run / "valid.tsv"), "--out", "runs/own"]
    assert main(["train", "--recipe", "demo", *small, *own]) == 0
    assert main(["resume", "runs/own", "--train.steps", "4"]) == 0
    assert "unseen" not in capsys.readouterr().out
