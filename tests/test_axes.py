"""Named axes: every edge of every model has its axes by name, and the names go through anybody's code."""
import math
from contextlib import nullcontext

import numpy as np
import pytest
from redraw import primes

import engine
from engine import ShapeError, Tensor, graph, shapes_only, unfused
from engine.diagram.sizes import Size, reshaped
from microtfm import Transformer
from microtfm.architecture import build
from microtfm.loss import translation_loss
from microtfm.settings import ModelSettings

NAMES = {"B": 3, "S": 5, "T": 7, "D": 22, "H": 2, "K": 11, "F": 13, "V": 17}       # all different, as in `primes`


MODELS = [{}, {"norm": "pre"}, {"tie": "all"}, {"tie": "output", "final_norm": True}, {"inner_dropout": 0.1}]


@pytest.mark.parametrize("mode", ["fused", "drawn unfused", "run unfused"])
@pytest.mark.parametrize("changes", MODELS, ids=str)
def test_the_axes_of_every_tensor_are_named_and_right(changes, mode):
    """A probe with sizes that are all different: each name stands for one size, on every edge of both passes."""
    with unfused() if mode == "run unfused" else nullcontext():
        _, loss = primes(**changes)
    g = graph(loss, backward=True, unfused=mode == "drawn unfused")
    assert len(g.boxes) > 200
    _names_are_right(g)
    unnamed = [b for b in g.boxes for s in b.sizes if not s.named]
    assert not unnamed, [(b.id, b.label, b.shape, b.path) for b in unnamed]


def _names_are_right(g):
    for box in g.boxes:
        for size in box.sizes:
            assert sum(math.prod(n for _, n in term) for term in size.terms) == int(size)
            assert all(not name or NAMES[name] == n for term in size.terms for name, n in term), (box, size.terms)


def test_the_recurrent_models_axes_are_named_and_right():
    """All but the halves of a sequence that its steps are taken from, which are as long as they are."""
    with shapes_only():
        model = build(ModelSettings(kind="rnn", d_model=22, heads=2, layers=1, dropout=0.1, tie="none"), 17, 17)
        ids = [Tensor.placeholder((3, n), np.int64) for n in (5, 7, 7)]
        g = graph(translation_loss(model(ids[0], ids[1]), ids[2]), backward=True)
    named = {**NAMES, "R": 11, "2": 2, "K": 22}              # one head
    for box in g.boxes:
        assert all(not name or named[name] == n for s in box.sizes for term in s.terms for name, n in term), box
    parts = [b for b in g.boxes if any(not s.named for s in b.sizes)]
    assert parts and all(b.op in ("getitem", "put", "accumulate", "add") for b in parts), {b.op for b in parts}
    assert g.parameters == model.count()


USER = {                                 # a person's own code: what it does, and how its last but one tensor is called
    "concat features": (lambda x, m: engine.concat([x, x], axis=-1), "B×T×2·D"),
    "concat lengths": (lambda x, m: engine.concat([m, x], axis=1), "B×(S + T)×D"),
    "split joined": (lambda x, m: engine.concat([m, x], axis=1)[:, 5:], "B×T×D"),
    "heads": (lambda x, m: x.reshape(3, 7, 2, 11).swapaxes(1, 2), "B×H×T×K"),
    "one head": (lambda x, m: x[..., 11:], "B×T×K"),
    "scores": (lambda x, m: x @ m.mT, "B×T×S"),
    "next ones": (lambda x, m: x[:, 1:], "B×(T−1)×D"),
    "without ends": (lambda x, m: x[:, 1:][:, :-1], "B×(T−2)×D"),
    "one more": (lambda x, m: engine.pad(x, ((0, 0), (0, 1), (0, 0))), "B×(T + 1)×D"),
    "the last": (lambda x, m: x[:, -1], "B×D"),
    "a part": (lambda x, m: x[:, :2], "B×2×D"),
    "chosen rows": (lambda x, m: x[np.array([0, 2])], "2×T×D"),
    "backwards": (lambda x, m: x[:, ::-1], "B×T×D"),
    "pairs": (lambda x, m: x[:, None] * x[:, :, None], "B×T×T×D"),
    "flat": (lambda x, m: x.reshape(-1, 22), "B·T×D"),
    "flat and back": (lambda x, m: x.reshape(-1, 22).reshape(3, 7, 22).transpose(2, 0, 1), "D×B×T"),
    "split": (lambda x, m: engine.split(x, 2, axis=-1)[1], "B×T×K"),
    "stack": (lambda x, m: engine.stack([x, x], axis=1), "B×2×T×D"),
    "spread": (lambda x, m: engine.broadcast_to(x[:, :, None], (3, 7, 4, 22)), "B×T×4×D"),
    "einsum": (lambda x, m: engine.einsum("btd,bsd->bst", x, m), "B×S×T"),
    "best": (lambda x, m: engine.topk(x, 4)[0], "B×T×4"),
    "statistics": (lambda x, m: (x - x.mean(axis=-1, keepdims=True)) / engine.sqrt(x.var(axis=-1, keepdims=True) + 1),
                   "B×T×D"),
}


@pytest.mark.parametrize("what", USER)
def test_names_are_carried_through_anybodys_code(what):
    """By every op, forward and backward; what nobody named stays a number."""
    make, text = USER[what]
    with shapes_only():
        x, m = (Tensor(np.zeros((3, n, 22)), requires_grad=True, name=name) for name, n in (("x", 7), ("m", 5)))
        x.axes, m.axes = ("B", "T", {"H": 2, "K": 11}), ("B", "S", {"H": 2, "K": 11})
        if "H" not in text and "K" not in text:
            x.axes, m.axes = ("B", "T", "D"), ("B", "S", "D")
        y = make(x, m)
        g = graph(engine.sum(engine.exp(y)), backward=True)
    made = next(b for b in g.boxes if b.op == "exp")
    assert made.shape.partition(" =")[0] == text
    _names_are_right(g)
    assert g.boxes[made.gradient].shape == made.shape
    for box in g.boxes:
        if box.gradient is not None:
            assert g.boxes[box.gradient].sizes == box.sizes
            assert [s.text() for s in g.boxes[box.gradient].sizes] == [s.text() for s in box.sizes], box


def test_names_are_not_guessed_from_equal_numbers():
    """With all sizes equal every name is still the right one."""
    with shapes_only():
        model = Transformer(ModelSettings(d_model=4, heads=2, layers=1, ffn=4, dropout=0.1, tie="none"), 4, 4)
        ids = [Tensor.placeholder((4, 4), np.int64) for _ in range(3)]
        loss = translation_loss(model(ids[0], ids[1]), ids[2], label_smoothing=0.1)
    same, (_, probe) = graph(loss, backward=True), primes()
    other = graph(probe, backward=True)
    assert [[s.text() for s in b.sizes] for b in same.boxes] == [[s.text() for s in b.sizes] for b in other.boxes]


def test_a_reshape_takes_apart_what_a_reshape_joined():
    b, t, hk = Size.declared("B", 3), Size.declared("T", 5), Size.declared({"H": 2, "K": 7}, 14)
    assert [s.text() for s in reshaped((b, t, hk), (3, 5, 2, 7))] == ["B", "T", "H", "K"]
    assert [s.text() for s in reshaped((b, t, hk), (15, 14))] == ["B·T", "H·K"]
    assert [s.text() for s in reshaped((b, t), (3, 1, 1, 5))] == ["B", "1", "1", "T"]
    assert [s.text() for s in reshaped((Size.plain(6),), (2, 3))] == ["2", "3"]


def test_axes_must_be_as_many_as_the_tensor_has():
    with pytest.raises(ShapeError, match="2 names for the 1 axes"):
        Tensor([1.0]).axes = ("B", "T")
