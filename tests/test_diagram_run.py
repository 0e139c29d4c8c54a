"""Graphs of real runs: values, gradients, the first NaN, memory, and two graphs compared."""
import re

import numpy as np
from redraw import primes

import engine
from engine import Tensor, graph, observe
from engine.diagram.boxes import collect
from microtfm.drawing import record


# --- comparing ------------------------------------------------------------------------------------
def test_post_norm_against_pre_norm():
    a, b = (graph(primes(norm=norm)[1]) for norm in ("post", "pre"))
    found = a.diff(b)
    assert not found.same and len(found.added) - len(found.removed) == len(b.boxes) - len(a.boxes)
    assert any("norm" in "/".join(box.path) for box in found.added)
    assert a.diff(graph(primes()[1])).same


def test_values_that_depart_are_found_where_they_first_do():
    def run(dtype, bend):
        x = Tensor(np.linspace(-1, 1, 12).reshape(3, 4), dtype=dtype, requires_grad=True, name="x")
        with observe():
            y = engine.tanh(engine.sin(x) * (1 + bend)).exp().sum()
            y.backward()
        return graph(y, backward=True)
    assert run("float32", 0.0).diff(run("float64", 0.0)).same
    found = run("float32", 0.0).diff(run("float32", 0.01))
    assert found.first.left.op == "mul" and 0.005 < found.first.by < 0.02
    assert run("float32", 0.0).diff(run("float64", 0.0), tolerance=1e-12).first is not None


# --- a real run -----------------------------------------------------------------------------------
def test_values_and_gradients_are_those_of_the_run():
    x = Tensor([3.0, 4.0], requires_grad=True, name="x")
    with observe():
        y = (x * x).sum()
    before = graph(y, backward=True)
    assert before.boxes[0].seen.numbers == (3.0, 4.0) and before.boxes[-1].seen is None
    assert "gradient" in before.svg() and "—" in before.svg() and "gradient  0" not in before.svg()
    y.backward(retain_graph=True)
    x.grad = None
    with observe():
        y = (x * x).sum()
        y.backward()
    after = graph(y, backward=True)
    assert after.boxes[after.boxes[0].gradient].seen.numbers == (6.0, 8.0)
    made = [b for b in after.boxes if b.op and b.column == 0]
    assert all(b.seen.seconds > 0 and "test_diagram_run.py" in b.seen.line for b in made)


def test_the_first_number_that_is_not_finite_is_ringed():
    x = Tensor([0.0, 1.0], requires_grad=True, name="x")
    with observe():
        y = (x.log() * x).sum()
    g = graph(y)
    svg = g.svg()
    assert svg.count("the first number that is not finite") == 1
    assert re.search(r"not finite: [\w/]*test_diagram_run.py:\d+", svg)


def test_observing_is_off_outside():
    with observe():
        a = Tensor([1.0]) * 2
    b = Tensor([1.0]) * 2
    assert a.node.seen is not None and b.node.seen is None


def test_attention_weights_are_on_the_softmax_box():
    x = Tensor(np.random.default_rng(0).normal(size=(1, 2, 4, 4)).astype(np.float32))
    with observe():
        y = engine.softmax(x)
    assert len(graph(y).boxes[-1].seen.weights) == 2 and "data:image/png;base64," in graph(y).svg()


def test_live_memory_follows_the_pass():
    x = Tensor(np.ones(1000, np.float32), requires_grad=True, name="x")
    y = (engine.exp(engine.sin(x)) + 1.0).sum()
    g = graph(y, backward=True)
    memory = g.memory()
    assert memory.live[0] == 4000 and memory.peak[1] == max(memory.live) >= 12000
    kept = next(b for b in g.boxes if b.op == "exp")
    assert next(life for life in memory.lives if life.box == kept.id).dies == len(g.boxes) - 1
    dropped = next(b for b in g.boxes if b.op == "add")
    assert next(life for life in memory.lives if life.box == dropped.id).dies == dropped.id + 1


def test_a_run_of_the_model_measures_every_box_of_both_passes():
    loss = record(None, "nano", real=True, backward=True)
    g = graph(loss, backward=True)
    made = [b for b in g.boxes if b.op and b.kind != "constant"]
    unseen = [b for b in made if b.seen is None]
    assert not unseen, [(b.id, b.label, b.path) for b in unseen[:5]]
    for name, size in (("forward", 0), ("backward", 1)):
        assert any(b.column == size for b in made), name


def test_collect_is_deterministic():
    _, loss = primes()
    assert [b.label for b in collect([loss], True, False)] == [b.label for b in collect([loss], True, False)]
