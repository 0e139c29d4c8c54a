"""The benchmark: that every side does the same work, that they take turns, and what the command prints. No timing."""
import json
import math
import subprocess
import sys

import numpy as np
import pytest

from engine.kernels.cpu import jit_disabled
from microtfm.bench import decoding, kernels, limits, memory, profiling, scaling, sides, step
from microtfm.bench.decoding_ours import OurDecoding
from microtfm.bench.kernel_cases import Case
from microtfm.bench.ours import OurStep
from microtfm.bench.sides import Side
from microtfm.bench.sizes import SIZES, Size
from microtfm.cli import main
from microtfm.errors import UserError
from microtfm.tokens import EOS

MICRO = Size("micro", d_model=8, heads=2, layers=2, ffn=12, vocabulary=23, batch=3, length=5)
STILL = MICRO.changed(dropout=0.0)


def silent(text):
    pass


# --- sizes ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "gflop"), [("nano", 0.1), ("toy", 1.4), ("tiny", 11), ("small", 58), ("base", 160)])
def test_the_work_of_each_size(name, gflop):
    assert SIZES[name].products() / 1e9 == pytest.approx(gflop, rel=0.06)


@pytest.mark.parametrize("size", [MICRO, SIZES["nano"]], ids=lambda size: size.name)
def test_parameters_are_those_of_our_model(size):
    ours = OurStep(**size.plain())
    assert ours.count() == size.parameters()
    assert sorted(p.shape for p in ours.parameters) == sorted(size.shapes())
    step.check_count("ours", ours.count(), size)
    with pytest.raises(RuntimeError, match="cannot be compared"):
        step.check_count("theirs", ours.count() + 1, size)


# --- every side does the same work ----------------------------------------------------------------
def our_weights(model):
    """Random weights, so that no two are swapped unseen."""
    rng = np.random.default_rng(1)
    for _, p in model.named_parameters():
        p[...] = p.numpy() + rng.normal(0, 0.1, p.shape)
    return model.state_dict()


def load_into_torch(model, weights):
    """Our weights in TorchTransformer: queries, keys and values are one matrix there, and matrices are transposed."""
    import torch

    packed = {"query": 0, "key": 1, "value": 2}
    names = {"self_attention": "self_attn", "cross_attention": "multihead_attn"}
    theirs = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            array = torch.from_numpy(value if "embedding" in name or value.ndim == 1 else value.T.copy())
            if name.startswith(("source_embedding", "target_embedding", "projection")):
                theirs[name].copy_(array)
                continue
            *path, part, kind = name.split(".")
            path = [names.get(piece, piece) for piece in path if piece != "feed_forward"]
            if part in packed:
                whole = theirs[".".join(["transformer", *path, f"in_proj_{kind}"])]
                whole.chunk(3)[packed[part]].copy_(array)
            else:
                theirs[".".join(["transformer", *path, "out_proj" if part == "output" else part, kind])].copy_(array)


def test_the_step_is_pytorchs():
    pytest.importorskip("torch", reason="PyTorch is not installed, so there is nothing to agree with")
    from microtfm.bench.peer_torch import TorchStep

    ours, theirs = OurStep(**STILL.plain()), TorchStep(**STILL.plain())
    load_into_torch(theirs.model, our_weights(ours.model))
    assert ours.count() == theirs.count()
    for _ in range(6):
        ours.step()
        theirs.step()
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=2e-5)


def test_the_step_is_jaxs():
    pytest.importorskip("jax", reason="JAX is not installed, so there is nothing to agree with")
    import jax.numpy as jnp

    from microtfm.bench.peer_jax import JaxStep

    ours, theirs = OurStep(**STILL.plain()), JaxStep(**STILL.plain())
    weights = our_weights(ours.model)
    assert ours.count() == theirs.count() and weights.keys() == theirs.state[0].keys()
    theirs.state = ({name: jnp.asarray(value) for name, value in weights.items()}, *theirs.state[1:])
    for _ in range(6):
        ours.step()
        theirs.step()
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=2e-5)


def test_a_step_learns_and_drops_out():
    ours, still = OurStep(**MICRO.plain()), OurStep(**STILL.plain())
    for each in (ours, still):
        each.warm_up(0.0)
    assert ours.losses[0] != still.losses[0]
    assert np.mean(still.losses[-8:]) < np.mean(still.losses[:8])
    assert len(ours.run(3)) == 3 and (ours.peak_mb() or 1) > 0


def test_decoding_is_pytorchs():
    pytest.importorskip("torch", reason="PyTorch is not installed, so there is nothing to agree with")
    from microtfm.bench.decoding_torch import TorchDecoding

    ours, theirs = OurDecoding(**MICRO.plain()), TorchDecoding(**MICRO.plain())
    ours.source = theirs.source = np.random.default_rng(0).integers(4, MICRO.vocabulary, (7, MICRO.length))
    load_into_torch(theirs.model, our_weights(ours.model))
    whole = ours.translate()
    assert whole == theirs.translate() and {len(ids) for ids in whole} == {MICRO.length}

    weight = ours.model.projection.weight                  # now let a token that was said end the sentence
    said = whole[0][2]
    weight[:, [EOS, said]] = weight.numpy()[:, [said, EOS]]
    load_into_torch(theirs.model, ours.model.state_dict())
    cut = ours.translate()
    assert cut == theirs.translate() and any(len(ids) < MICRO.length for ids in cut)


def test_sentences_to_be_timed_have_full_length():
    ours = OurDecoding(**MICRO.plain())
    for beam in (1, 3):
        assert ours.prepare(4, beam) > 0
        assert [len(ids) for ids in ours.translate()] == [MICRO.length] * 4
    assert len(ours.run(2)) == 2


# --- turns, ratios, fits --------------------------------------------------------------------------
def test_turns_alternate():
    seen = []

    def side(name, ms):
        return lambda: seen.append(name) or [ms]
    turns = sides.take_turns({"a": side("a", 2.0), "b": side("b", 3.0)}, 0.0, 3, 0.0)
    assert seen == ["a", "b"] * 3
    assert turns == {"a": [[2.0]] * 3, "b": [[3.0]] * 3}
    assert sides.ratio(turns["a"], turns["b"]) == 1.5
    assert len(sides.take_turns({"a": side("a", 500.0)}, 1.6, 1, 0.0)["a"]) == 4
    assert len(sides.take_turns({"a": side("a", 500.0)}, 1.6, 1, 0.0, most=2)["a"]) == 2


@pytest.mark.parametrize(("steps", "a_turn", "expected"), [
    (1, 100, [1]), (3, 1, [1, 1, 1]), (5, 100, [1] * 5), (7, 2, [1, 1, 2, 1, 2]), (150, 20, None)])
def test_steps_are_shared_among_turns(steps, a_turn, expected):
    found = step.portions(steps, a_turn)
    assert sum(found) == steps and max(found) <= a_turn and max(found) - min(found) <= 1
    assert expected is None or found == expected


def test_the_ratio_is_pair_by_pair():
    """One slow round slows both sides, and their ratio not at all."""
    assert sides.ratio([[1.0], [10.0], [1.0]], [[2.0], [20.0], [2.0]]) == 2.0


def test_fits_and_limits():
    assert scaling.slope([1, 2, 4, 8], [3, 12, 48, 192]) == pytest.approx(2)
    measured = {str(2**20): 100.0, str(2**27): 10.0}
    assert limits.bandwidth(measured, 10) == 100 and limits.bandwidth(measured, 1e9) == 10
    assert limits.share(1.0, 50e9, 0, 100, measured) == pytest.approx(0.5)
    assert limits.share(1.0, 0, 5e9, 100, measured) == pytest.approx(0.5)
    assert [size.layers for size in scaling.points(MICRO, "depth")] == [2, 4, 8, 16]


def test_memory_is_known_here_or_says_so():
    memory.put_down_mark()
    peak = memory.peak_mb()
    assert peak is None or peak > 1


# --- processes ------------------------------------------------------------------------------------
def test_a_side_answers_and_fails_clearly():
    with Side("counter", "collections:Counter", {"a": 3}, 1).start() as side:
        assert side.call("get", "a") == 3
        with pytest.raises(UserError, match="counter failed: AttributeError"):
            side.call("nothing")
        with pytest.raises(UserError, match="counter failed: TypeError"):
            side.call("elements")                # not a plain value
        assert side.call("get", "b", 7) == 7
    with pytest.raises(UserError, match="status 3"):
        Side("dead", "os:_exit", {"status": 3}, 1).start()
    with pytest.raises(UserError, match="ModuleNotFoundError"):
        Side("missing", "no_such_module:Thing", {}, 1).start()


def test_decoding_scaling_and_kernels_end_to_end():
    answer = decoding.measure(MICRO, [2], 2, [], 1, 0.0, silent)
    assert [(row["sentences"], row["beam"]) for row in answer["rows"]] == [(2, 1), (2, 2)]
    assert all(row["sentences_per_s"] > 0 for row in answer["rows"])
    pair = [Case(kernel, (4, 5), "", "elementwise") for kernel in ("add", "erf")]
    answer = kernels.measure(pair, [], 1, 0.0, silent)
    assert set(answer["kernels"][0]["peers"]) == {"numpy"} and answer["kernels"][1]["peers"] == {}
    assert answer["geometric_means"]["elementwise"]["numpy"] > 0


def test_idle_threads_do_not_spin_into_the_next_turn(monkeypatch):
    def seen():
        with Side("environment", "os:getenv", {"key": "OPENBLAS_THREAD_TIMEOUT"}, 1).start() as side:
            return side.call("strip")
    monkeypatch.delenv("OPENBLAS_THREAD_TIMEOUT", raising=False)
    assert seen() == "20"
    monkeypatch.setenv("OPENBLAS_THREAD_TIMEOUT", "9")
    assert seen() == "9"


def test_scaling_end_to_end(monkeypatch):
    monkeypatch.setattr(scaling, "AXES", {"vocabulary": "vocabulary"})
    found = scaling.measure(MICRO, 1, 0.0, silent)["axes"]["vocabulary"]
    assert 0 < found["expected"] < 1 and [point["value"] for point in found["points"]] == [23, 46, 92, 184]


# --- the profile ----------------------------------------------------------------------------------
@pytest.mark.skipif(jit_disabled(), reason="without kernels nothing is recorded, and products are counted as matmul")
def test_the_profile_counts_the_work():
    profile = profiling.Profile(**MICRO.plain())
    profile.step()
    answer = profile.profile(2, 100.0, {str(2**20): 10.0})
    rows = {(row["phase"], row["op"]): row for row in answer["rows"]}

    def flop(phase, *ops):
        return sum(row["flop"] for key, row in rows.items() if key[0] == phase and key[1].startswith(ops))
    products = 2.0 * MICRO.batch * MICRO.length * (MICRO.layers * (12 * 8 * 8 + 4 * 8 * 12) + 8 * 23)
    assert flop("forward", "matmul", "linear") == products
    assert flop("backward", "matmul", "linear") == 2 * products
    scores = MICRO.layers * MICRO.batch * MICRO.heads * MICRO.length**2 * 3
    assert 3 * products + flop("forward", "self", "cross_att") + flop("backward", "self", "cross_att") == (
        MICRO.products() + scores * (5 + 9))
    assert rows["forward", "add_norm"]["calls"] == rows["backward", "add_norm_vjp"]["calls"] == 2 * 5
    assert rows["forward", "layer_norm"]["calls"] == 2
    assert {"global_norm", "adam"} <= {op for phase, op in rows if phase == "update"}
    assert math.isclose(sum(row["share"] for row in answer["rows"]), 1.0)
    assert [row["ms"] for row in answer["rows"]] == sorted((row["ms"] for row in answer["rows"]), reverse=True)
    assert profile.watch is None and len(profile.run(1)) == 1


@pytest.mark.skipif(jit_disabled(), reason="nothing is recorded")
def test_every_launch_of_a_step_has_its_cost():
    """What takes time in the replayed step was seen, under the same name, when its work was counted."""
    profile = profiling.Profile(**MICRO.plain())
    profile.step()
    for row in profile.profile(2, 100.0, {str(2**20): 10.0})["rows"]:
        assert row["op"] in ("count", "between the launches") or (row["calls"] and row["bytes"] > 0), row


# --- the command ----------------------------------------------------------------------------------
def test_bench_step_prints_one_json_object(capsys):
    assert main(["bench", "step", "--size", "nano", "--steps", "1", "--threads", "1", "--profile", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["size"] == "nano" and answer["threads"] == 1 and answer["steps"] == 1 and answer["peers"] == {}
    assert answer["params"] == SIZES["nano"].parameters()
    assert all(answer[key] > 0 for key in ("step_ms", "min_ms", "tokens_per_s", "peak_mb", "gflop"))
    assert answer["compile_s"] >= 0 and answer["limit"]["gflops"] > 0
    assert {"op", "phase", "ms", "calls", "flop", "bytes", "of_limit"} <= answer["profile"]["rows"][0].keys()


def test_bench_prints_tables(capsys):
    assert main(["bench", "kernels", "--only", "relu", "--size", "nano", "--threads", "1", "--seconds", "0"]) == 0
    out = capsys.readouterr().out
    assert "relu    320×64" in out and "geometric means" in out and "numpy: times ours" in out and "\x1b" not in out


def test_a_simulated_card_is_said_to_be_one_and_does_toys(capsys, monkeypatch, tmp_path):
    pytest.importorskip("greenlet")
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")
    common = ["--device", "cuda", "--threads", "1", "--seconds", "0"]
    assert main(["bench", "kernels", *common, "--only", "matmul", "--only", "relu", "--save", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    first = " ".join(captured.out.split("\n1 thread;")[0].split())
    assert first.startswith("cuda: as asked for (a simulated card); products in float32; SIMULATED: these times")
    assert "33×9×20" in captured.out and "2048" not in captured.out
    (file,) = tmp_path.glob("kernels-cuda-simulated-*.json")
    rows = json.loads(file.read_text(encoding="utf-8"))["kernels"]
    assert rows and all(peer["ratio"] > 0 for row in rows for peer in row["peers"].values())


def test_a_peer_that_cannot_use_the_card_is_refused(monkeypatch):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this PyTorch can")
    from microtfm.bench import peer_torch
    monkeypatch.setenv(sides.DEVICE, "cuda")
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "0")
    with pytest.raises(UserError, match=r"cannot use the card\. Install one that is built for CUDA"):
        peer_torch.device()
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")
    assert peer_torch.device().type == "cpu"


def test_ratios_are_never_rounded_to_nothing():
    assert [sides.significant(x) for x in (1.23456, 4.4444e-5, 123456.0)] == [1.235, 4.444e-5, 123500.0]


def test_what_the_command_refuses(capsys, monkeypatch):
    def refused(*words):
        assert main(["bench", *words]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1
        return captured.err
    assert "there is no such peer" in refused("step", "--peer", "tensorflow")
    assert "--threads 0" in refused("step", "--threads", "0")
    assert "--steps 0" in refused("step", "--steps", "0")
    assert "--seconds" in refused("scaling", "--seconds", "-1")
    assert "--sentences 0" in refused("decode", "--sentences", "0")
    assert "PyTorch only" in refused("decode", "--peer", "jax")
    for precision in ("bf16", "tf32x3"):
        for command in ("step", "kernels", "decode"):
            assert "is a precision of cards, and this computes on the processor" in refused(
                command, "--precision", precision)
    assert "--save" in refused("step", "--save", "/dev/null/results") and "nothing can be written there" in refused(
        "kernels", "--save", "/dev/null/results")
    monkeypatch.setattr(sides.importlib.util, "find_spec", lambda name: None)
    assert "PyTorch is not installed here. Install it (pip install torch)" in refused("step", "--peer", "torch")


def test_help_is_light():
    code = ("import sys; from microtfm.cli import main; main(['bench', '--help']); main(['bench', 'step', '--help']); "
            "print([m for m in ('numpy', 'numba', 'torch', 'jax') if m in sys.modules])")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip().endswith("[]")
