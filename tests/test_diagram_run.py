"""Graphs of real runs: values, gradients, the first NaN, memory, and two graphs compared."""
import json
import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import numpy as np
import pytest
from redraw import primes
from tiny import corpus, settings

import engine
from engine import GraphError, Tensor, graph, observe
from engine.diagram.boxes import collect
from engine.draw.lives import stacked
from engine.kernels.cpu import jit_disabled
from microtfm import data, drawing, train
from microtfm.drawing import record
from microtfm.run_folder import RunFolder


# --- comparing ------------------------------------------------------------------------------------
def test_post_norm_against_pre_norm():
    a, b = (graph(primes(norm=norm)[1]) for norm in ("post", "pre"))
    found = a.diff(b)
    assert not found.same and len(found.added) - len(found.removed) == len(b.boxes) - len(a.boxes)
    assert any("norm" in "/".join(box.path) for box in found.added)
    assert a.diff(graph(primes()[1])).same


def test_a_difference_is_a_picture_and_data(tmp_path):
    """Both graphs in one: each box and arrow once, marked where only one of the two has it, folded like any graph."""
    a, b = (graph(primes(norm=norm)[1], backward=True) for norm in ("post", "pre"))
    found = a.diff(b)
    g = found.graph
    only = {sign: [box for box in g.boxes if box.change == sign] for sign in "−+"}
    assert len(only["−"]) == len(found.removed) and len(only["+"]) == len(found.added)
    assert len(g.boxes) == len(a.boxes) + len(found.added) == len(b.boxes) + len(found.removed)
    for sign, whole in (("+", a), ("−", b)):         # without what the other one adds, it is the one graph or the other
        edges = sum(edge.change != sign for box in g.boxes for edge in box.inputs)
        assert edges == sum(len(box.inputs) for box in whole.boxes)
    assert all(e.source < box.id for box in g.boxes for e in box.inputs)
    assert all(g.boxes[box.of].column < box.column for box in g.boxes if box.of is not None)
    data = json.loads(g.json())
    assert sum(box.get("change") == "+" for box in data["boxes"]) == len(found.added)
    for suffix in (".svg", ".html", ".dot", ".json", ".txt"):
        assert found.save(tmp_path / f"d{suffix}").stat().st_size > 200
    assert '"+ add' in (tmp_path / "d.dot").read_text(encoding="utf-8")
    svg = (tmp_path / "d.svg").read_text(encoding="utf-8")
    for words in ("only in the first", "only in the second", "changed, or holds changes"):
        assert words in svg
    folded = g.view(3)
    assert any(item.module and item.change == "~" for item in folded.items) and any(k.change for k in folded.links)
    same = a.diff(graph(primes(norm="post")[1], backward=True)).graph
    assert not any(box.change for box in same.boxes) and len(same.boxes) == len(a.boxes)


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
    marked = [box for box in found.graph.boxes if box.departs is not None]
    assert marked[0].op == "mul" and marked[0].departs == found.first.by and len(marked) == len(found.departures)
    svg = found.graph.svg()
    assert svg.count("the first box whose values depart") == 1 and "departs by 0.01" in svg
    assert str(found).count("values depart first at") == 1
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


def test_a_closed_module_shows_what_comes_out_of_it_and_the_ring():
    x = Tensor([0.0, 1.0], requires_grad=True, name="x")
    with observe():
        with engine.scope("inner"):
            y = x.log() * 1.0
        z = engine.sum(engine.exp(y))
        z.backward()
    svg = graph(z, backward=True).svg(depth=0)
    texts = " ".join(ET.fromstring(svg).itertext())
    assert svg.count("the first number that is not finite") == 1 and "inner" in texts
    assert "gradient" in texts and "out" in texts and svg.count("root mean square") >= 4


def test_a_run_is_drawn_with_its_own_sentences(tmp_path):
    """The attention on the boxes is that of real text: what the run was validated on, not of random words."""
    run = tmp_path / "run"
    train.train(settings(run, steps=2), corpus=corpus())
    _, _, ids = drawing._run_model(run, real=True)
    source, _ = RunFolder.open(run).tokenizers()
    first = data.read_parallel(RunFolder.open(run).settings.valid_src).pairs[0][0]
    assert ids[0][0].tolist()[:len(source.encode(first))] == source.encode(first)
    assert ids[1].shape == ids[2].shape and len(ids[0]) == len(ids[1]) <= 32
    (run / "valid.tsv").unlink()
    assert drawing._run_model(run, real=True)[2] is None
    loss = record(run, None, real=True)
    assert np.isfinite(loss.item())


def test_observing_is_off_outside():
    with observe():
        a = Tensor([1.0]) * 2
    b = Tensor([1.0]) * 2
    assert a.node.seen is not None and b.node.seen is None


@pytest.mark.skipif(jit_disabled(), reason="softmax runs as its definition, which is no box")
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


def test_lives_are_drawn_without_overlap(tmp_path):
    """Every tensor a rectangle: those that are alive at once never share a byte; the pile is about the peak."""
    memory = graph(primes()[1], backward=True).memory()
    lives = sorted(memory.lives, key=lambda life: (-life.bytes, life.box))
    floors, high = stacked(lives)
    assert memory.peak[1] <= high <= 1.3 * memory.peak[1]
    for step in range(0, len(memory.live), 7):
        here = sorted((f, f + life.bytes) for life, f in zip(lives, floors, strict=True)
                      if life.born <= step <= life.dies)
        assert sum(b - a for a, b in here) == memory.live[step]
        assert all(b <= c for (_, b), (c, _) in pairwise(here))
    svg = memory.save(tmp_path / "m.svg", title="a < b").read_text(encoding="utf-8")
    root = ET.fromstring(svg)
    tips = [t.text for t in root.iter("{http://www.w3.org/2000/svg}title")]
    assert len(tips) == len(lives) + 1 and "peak" in svg and "a &lt; b" in svg
    assert all(re.search(r"steps \d+ to \d+", tip) for tip in tips[1:])
    assert "peak" in memory.save(tmp_path / "m.txt").read_text(encoding="utf-8").splitlines()[-1]
    with pytest.raises(GraphError, match=r"must end in \.svg or \.txt"):
        memory.save(tmp_path / "m.png")


@pytest.mark.parametrize("unfused", [False, True], ids=["kernels", "definitions"])
def test_a_run_of_the_model_measures_every_box_of_both_passes(unfused):
    loss = record(None, "nano", unfused=unfused, real=True, backward=True)
    g = graph(loss, backward=True)
    made = [b for b in g.boxes if b.op and b.kind != "constant"]
    unseen = [b for b in made if b.seen is None]
    assert not unseen, [(b.id, b.label, b.path) for b in unseen[:5]]
    for name, size in (("forward", 0), ("backward", 1)):
        assert any(b.column == size for b in made), name


def test_collect_is_deterministic():
    _, loss = primes()
    assert [b.label for b in collect([loss], True, False)] == [b.label for b in collect([loss], True, False)]
