"""Training, translating and scoring on a card, here a simulated one: the processor's numbers within rounding, the same
bits whenever asked, and files that know nothing of devices."""
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine import DeviceError, GraphError, Tensor, default_device
from engine.kernels.cpu import jit_disabled
from engine.kernels.cuda import card
from microtfm import Translator, cli, train
from microtfm.bench.ours import OurStep
from microtfm.bench.sides import placed
from microtfm.bench.sizes import SIZES
from microtfm.errors import UserError
from microtfm.examination import examine, probe
from microtfm.learner import Learner
from microtfm.optim import Adam
from microtfm.settings import ModelSettings, Settings, TrainSettings
from microtfm.transformer import Transformer
from tests.test_learner import batch
from tests.tiny import corpus, pairs, settings

pytest.importorskip("greenlet")


def run(out: Path, device: str, **changes: Any) -> Path:
    engine.seed(0)
    chosen = settings(out, steps=4, validate_every=4, save_every=2)
    return train.train(replace(chosen, device=device, **changes), corpus=corpus()).folder


def losses(folder: Path) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [line["loss"] for line in map(json.loads, lines) if "loss" in line]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: Any) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("cuda")
    return {name: run(folder / name, name.split("-")[0]) for name in ("cpu", "cuda", "cuda-again")}


def test_a_run_on_a_card_learns_what_one_on_the_processor_does(runs: dict[str, Path]) -> None:
    np.testing.assert_allclose(losses(runs["cuda"]), losses(runs["cpu"]), rtol=1e-5)


def test_a_run_on_a_card_ends_with_the_same_bytes_every_time(runs: dict[str, Path]) -> None:
    for name in ("model.safetensors", "last/state.safetensors"):
        assert (runs["cuda"] / name).read_bytes() == (runs["cuda-again"] / name).read_bytes()


def test_a_run_goes_on_on_either_device(runs: dict[str, Path]) -> None:
    """Checkpoints know no device: what one has saved the other takes up, to the same numbers within rounding."""
    for first, then in (("cpu", "cuda"), ("cuda-again", "cpu")):
        before = (runs[first] / "last/state.safetensors").read_bytes()
        ended = train.resume(runs[first], changes={"steps": 6, "validate_every": 6, "save_every": 3}, device=then)
        assert f'device = "{then}"' in (runs[first] / "config.toml").read_text()
        assert ended.step == 6 and (runs[first] / "last/state.safetensors").read_bytes() != before
    a, b = losses(runs["cpu"]), losses(runs["cuda-again"])
    np.testing.assert_allclose(a, b, rtol=1e-4)


def test_a_card_translates_as_the_processor(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    lines = [a for a, _ in pairs()[:5]]
    there, here = (Translator.load(runs["cuda"], device) for device in ("cuda", "cpu"))
    assert (there.model.device, here.model.device) == ("cuda", "cpu")
    for way in ({"beam": 1}, {"beam": 3}, {"beam": 1, "cache": False}):
        assert there.translate(lines, **way) == here.translate(lines, **way)
    assert cli.main(["translate", str(runs["cuda"]), lines[0], "--device", "cuda"]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == here.translate(lines[:1])[0] and card.name().partition(",")[0] in said.err


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_training_that_breaks_down_says_where(device: str, tmp_path: Path) -> None:
    engine.seed(0)
    chosen = settings(tmp_path / "run", steps=6, lr=1e30, warmup=1, clip_norm=0.0)
    with pytest.raises(UserError, match=r"broke down at step 2(.|\n)*not finite are made by \w+ \(forward\) in "
                                        r"transformer/encoder(.|\n)*checkpoint of step 0"):
        train.train(replace(chosen, device=device), corpus=corpus())


def test_a_model_moves_in_place_and_takes_its_inputs_along() -> None:
    with default_device("cpu"):
        side = OurStep(replay=False, **SIZES["nano"].changed(batch=2, length=3).plain())
    model, (source, target, _) = side.model.eval(), side._batches[0]
    here = model(source, target).numpy()
    assert model.to("cuda") is model and model.device == "cuda"
    there = model(source, target)
    assert there.device == "cuda"
    np.testing.assert_allclose(there.numpy(), here, rtol=1e-4, atol=1e-4)
    assert model.to("cpu").device == "cpu" and model(source, target).numpy().tolist() == here.tolist()


# --- replay ---------------------------------------------------------------------------------------
def test_a_replayed_step_on_a_card_has_the_bits_of_the_step_itself() -> None:
    found = {}
    for replayed in (False, True):
        with default_device("cuda"):
            side = OurStep(replay=replayed, **SIZES["nano"].changed(batch=4, length=5, layers=1).plain())
            for _ in range(3):
                side.step()
            found[replayed] = [side.losses, *(p.numpy().tolist() for p in side.parameters)]
    assert found[False] == found[True]
    (plan,) = side.update.plans()
    assert not [label for label in plan.labels if label.op == "mul"]       # no gradient is copied to be its own


@pytest.mark.skipif(jit_disabled(), reason="nothing is recorded")
def test_ids_are_checked_before_a_replayed_step_on_a_card() -> None:
    with default_device("cuda"):
        table = Tensor(np.ones((5, 2), np.float32))
        look = engine.replay(lambda ids: engine.embedding(table, ids[:, 1:]))
        ids = np.array([[9, 1, 2], [9, 3, 4]])
        for _ in range(3):
            assert look(ids).shape == (2, 2, 2)
        with pytest.raises(engine.IndexRangeError, match="id 5 is out of range for 5 rows"):
            look(ids + 1)
        with pytest.raises(GraphError, match="looks ids up that the step itself computes"):
            engine.replay(lambda x: engine.embedding(table, x.astype(np.int64)))(np.zeros((2, 5), np.float32))


def drawn_together(device: str, replayed: bool, several: int) -> tuple[list[tuple[float, float]], list[Any]]:
    """Losses, norms and weights of an R-Drop run of three updates, each from so many batches."""
    with default_device(device):
        engine.seed(3)
        model = Transformer(ModelSettings(d_model=16, heads=2, layers=1, ffn=32, dropout=0.3, tie="output"), 40, 50)
        learn = Learner(model, Adam(model.named_parameters(), 1e-2), TrainSettings(consistency=5.0), replayed)
        steps = [[batch(2, 4, 10 * step + i) for i in range(several)] for step in range(3)]
        said = [learn(batches, 0.01, sum(b.tokens for b in batches)) for batches in steps]
        return said, [p.numpy().tolist() for p in learn.parameters]


@pytest.mark.parametrize("several", [1, 2])
def test_two_predictions_are_drawn_together_on_a_card_as_on_the_processor(several: int) -> None:
    here, there = drawn_together("cpu", True, several), drawn_together("cuda", True, several)
    np.testing.assert_allclose(there[0], here[0], rtol=1e-5)
    assert drawn_together("cuda", False, several) == there


# --- settings -------------------------------------------------------------------------------------
def test_a_precision_of_cards_is_refused_on_the_processor(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--precision bf16 is a precision of cards"):
        run(tmp_path / "x", "cpu", precision="bf16")
    assert not (tmp_path / "x").exists() and Settings().precision == "float32"
    with pytest.raises(DeviceError, match="there is no precision 'fp8'"), engine.precision("fp8"):
        pass


@pytest.mark.parametrize("seed", range(3))
def test_padding_changes_no_bit_of_a_logit(seed: int) -> None:
    """Also where there are then more positions than one kernel of attention takes."""
    with default_device("cuda"):
        engine.seed(seed)
        model = Transformer(ModelSettings(d_model=32, heads=4, layers=2, ffn=64, dropout=0.0, tie="output"), 40, 50)
        rng = np.random.default_rng(seed)
        source, target = rng.integers(4, 40, (2, 9 + 9 * seed)), rng.integers(4, 50, (2, 20))
        source[0, 5:] = 0
        logits = model(Tensor(source), Tensor(target)).numpy()
        for more in (1, 7, 33):
            padded = (np.pad(ids, ((0, 1), (0, more)), constant_values=c) for ids, c in ((source, 0), (target, 4)))
            np.testing.assert_array_equal(model(*map(Tensor, padded)).numpy()[:2, :20], logits)


def test_a_card_scores_as_the_processor(runs: dict[str, Path], tmp_path: Path,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    tsv, found = text(tmp_path), {}
    for device in ("cpu", "cuda"):
        assert cli.main(["score", str(runs["cuda"]), "--src", tsv, "--device", device, "--json"]) == 0
        said = capsys.readouterr()
        found[device] = json.loads(said.out)
        assert (said.err == "") == (device == "cpu") and found[device]["device"].startswith(f"{device}: as asked for")
    np.testing.assert_allclose(found["cuda"]["log_probability"], found["cpu"]["log_probability"], rtol=1e-5)


def test_every_command_says_first_what_auto_took_and_why(runs: dict[str, Path], tmp_path: Path,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    """On standard error where standard output is data, and not where the device was named."""
    why, tsv, out = engine.choose_device("auto")[1].partition(",")[0], text(tmp_path), tmp_path / "run"
    small = ["--model.d-model", "16", "--model.heads", "2", "--model.layers", "1", "--tokens.kind", "char"]
    lines = {
        "train": ["train", "--src", tsv, "--out", str(out), "--train.steps", "1", *small],
        "resume": ["resume", str(out), "--train.steps", "2"], "evaluate": ["evaluate", str(out), "--worst", "0"],
        "score": ["score", str(out), "--src", tsv], "translate": ["translate", str(out), "一"],
        "show": ["translate", str(out), "一", "--show", "attention", "--out", str(tmp_path / "a.svg")],
        "graph": ["graph", str(out), "--run"],
    }
    for name, argv in lines.items():
        data = name in ("score", "translate", "show", "graph")
        assert cli.main([*argv, "--device", "auto"]) == 0
        said = capsys.readouterr()
        first, other = (said.err, said.out) if data else (said.out, said.err)
        assert first.startswith(f"note: {why}" if data else f"device  {why}") and why not in other
        if name in ("train", "resume"):
            assert said.out.count(why) == 1                  # the line of the run is short for it
            argv = [*argv, "--force"] if name == "train" else [*argv[:-1], "3"]
        if name not in ("show", "graph"):
            assert cli.main([*argv, "--json", *(["--device", "auto"] if data else [])]) == 0
            said = capsys.readouterr()
            assert json.loads(said.out) and why in said.err.splitlines()[0]
        if name in ("translate", "show"):
            assert cli.main([*argv, "--quiet"]) == 0
            assert capsys.readouterr().err == ""
        if name not in ("train", "resume"):
            for device in ("cpu", "cuda"):
                assert cli.main([*argv, "--device", device]) == 0
                said = capsys.readouterr()
                says = "note: cuda: as asked" if data else "device  cuda: as asked"
                first = (said.err if data else said.out).startswith(says)
                assert first == (device == "cuda") and (first or (said.err == "" and "device" not in said.out))
    assert cli.main(["graph", str(out), "--device", "cuda"]) == 2
    assert "nothing is computed without" in capsys.readouterr().err
    for place in ("cpu", "cuda"):
        with default_device(place):
            answers = examine(out, tsv, worst=0), probe(out, tsv)
            assert [a["device"] for a in answers] == [place, place]
    missing = str(tmp_path / "nosuch")
    for argv in (["translate", missing, "一"], ["evaluate", missing], ["score", missing, "--src", tsv],
                 ["train", "--src", missing, "--out", str(tmp_path / "new")], ["resume", missing]):
        assert cli.main(argv) == 2                       # what is wrong is the only word
        said = capsys.readouterr()
        assert (said.out, said.err.count("\n")) == ("", 1)


def test_a_measurement_says_first_what_auto_took() -> None:
    said: list[str] = []
    for device in ("auto", "cpu"):
        with placed(device, tell=said.append) as facts:
            assert facts["device"] == engine.choose_device(device)[0]
    assert len(said) == 1 and said[0].startswith(engine.choose_device("auto")[1].partition(",")[0])


def text(folder: Path) -> str:
    """The corpus in a file."""
    path = folder / "all.tsv"
    path.write_text("".join(f"{a}\t{b}\n" for a, b in pairs()), encoding="utf-8")
    return str(path)


def test_auto_says_what_it_takes_and_why() -> None:
    device, why = engine.choose_device("auto")
    assert (device, "simulated" in why) == (("cpu", True) if card.simulated() else ("cuda", False))
    device, why = engine.choose_device("cuda")
    assert device == "cuda" and why.startswith(f"cuda: as asked for ({card.name().partition(',')[0]}")
