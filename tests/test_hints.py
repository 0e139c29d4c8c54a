"""Command lines that are not understood: what was probably meant is said, and nothing is guessed that is not there."""
from __future__ import annotations

import pytest

from microtfm.cli import main
from microtfm.hints import ELSEWHERE, exact


@pytest.mark.parametrize(("line", "said"), [
    ("train --src a --tgt b --lr 3", "Did you mean --train.lr?"),
    ("train --source a --target b", "Did you mean --src?"),
    ("train --src a --batch_size 3", "Did you mean --train.batch-tokens? --train.batch-tokens counts tokens, not sent"),
    ("train --epochs 3", "Did you mean --train.steps? --train.steps counts updates, not passes over the text."),
    ("bench step --batch-size 3", "All there are: microtfm bench step --help"),
    ("export R model.safetensors", "microtfm export needs --out: File to write, .safetensors."),
    ("score R a b", "microtfm score needs --src: Source text, or a TSV"),
    ("translate", "microtfm translate needs RUN: Run folder of a trained model"),
    ("train --src", "--src requires an argument"),
    ("train --dropout 0.1", "Did you mean --model.dropout or --tokens.dropout?"),
    ("train --model.layer 3", "Did you mean --model.layers?"),
    ("train --sorce=a", "Unknown option: --sorce. Did you mean --src?"),
    ("train --foo 3", "All there are: microtfm train --help"),
    ("translate --run R x", "The run stands first and has no name: microtfm translate runs/mine"),
    ("translate R --gpu", "Did you mean --device?"),
    ("translate R x --device gpu", 'Did you mean "cuda"?'),
    ("translate R x --device cpx", 'Did you mean "cpu"?'),
    ("resume R --model.d_model 64", "--model.d-model is settled when a run begins"),
    ("resume R --heads 2", "--model.heads is settled when a run begins"),
    ("train my.zh my.en", "cannot tell what my.en is. Text files go behind --src and --tgt"),
    ("demo runs/q", "A run folder goes behind --out: --out runs/q"),
    ("info R S", "microtfm info --help says what it takes"),
])
def test_what_was_meant_is_said(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    assert said in capsys.readouterr().err


def test_every_name_that_is_offered_is_an_option_of_some_command(capsys: pytest.CaptureFixture[str]) -> None:
    shown = ""
    for command in ("train", "translate"):
        assert main([command, "--help"]) == 0
        shown += capsys.readouterr().out.lower()
    assert [name for name in ELSEWHERE if name not in shown] == []
    assert exact("--epochs", ["--beam"]) == []
