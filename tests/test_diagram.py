"""Graphs from the record: every box, every edge's axes, every tick, and the same text in every process."""
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from redraw import GOLDEN, golden, primes

import engine
from engine import EngineError, GraphError, Tensor, graph, shapes_only, unfused
from microtfm import Transformer
from microtfm.loss import translation_loss
from microtfm.settings import ModelSettings


@pytest.fixture(scope="module")
def step():
    model, loss = primes()
    return model, loss, graph(loss, backward=True)


# --- structure ------------------------------------------------------------------------------------
def test_the_boxes_are_the_record(step):
    _, _, g = step
    assert [b.id for b in g.boxes] == list(range(len(g.boxes)))
    for box in g.boxes:
        assert all(e.source < box.id for e in box.inputs), "a box comes after all that it reads"
        if box.kind == "op" and box.op != "constant":
            assert box.op in engine.OPS and box.equation == engine.OPS[box.op].equation[0]
    shapes = {b.node.shape for b in g.boxes if b.node is not None}
    assert all(tuple(map(int, b.sizes)) == b.node.shape for b in g.boxes) and len(shapes) > 20


def test_every_backward_box_knows_its_forward_box(step):
    _, _, g = step
    backward = [b for b in g.boxes if b.column == 1 and b.op]
    assert backward and all(b.of is not None and g.boxes[b.of].column == 0 for b in backward)


def test_a_plus_equals_where_gradients_meet_and_nowhere_else():
    x = Tensor([1.0, 2.0], requires_grad=True, name="x")
    y = x * x + x.sin() + x
    g = graph(y.sum(), backward=True)
    assert sum(b.kind == "accumulate" for b in g.boxes) == 3         # x is read four times
    assert [b.of for b in g.boxes if b.kind == "accumulate"] == [0, 0, 0]
    assert g.boxes[g.boxes[0].gradient].kind == "accumulate"


def test_saved_values_are_the_edges_from_forward_to_backward(step):
    _, _, g = step
    saved = [(e.source, b) for b in g.boxes if b.column == 1 for e in b.inputs if e.kind == "saved"]
    assert saved
    for source, box in saved:
        assert g.boxes[source].column == 0
        reads = [e.source for e in g.boxes[box.of].inputs] + [box.of]
        assert source in reads or g.boxes[source].kind == "op", "what a rule reads is an input or output of its op"


def test_every_parameter_has_a_gradient_of_its_shape(step):
    _, _, g = step
    weights = [b for b in g.boxes if b.kind == "parameter"]
    for weight in weights:
        assert weight.gradient is not None
        assert g.boxes[weight.gradient].sizes == weight.sizes


def test_a_freed_graph_is_drawn_like_a_fresh_one():
    x = Tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True, name="x")
    loss = engine.sum(engine.softmax(x @ x))
    before = graph(loss, backward=True).json()
    loss.backward()
    assert graph(loss, backward=True).json() == before


def test_drawing_computes_nothing_and_changes_nothing():
    x = Tensor([1.0, 2.0], requires_grad=True)
    loss = engine.sum(x * x)
    graph(loss, backward=True)
    assert x.grad is None and x.requires_grad and loss.item() == 5.0
    loss.backward()
    assert x.grad.numpy().tolist() == [2.0, 4.0]


def test_backward_alone_and_double_backward():
    x = Tensor([0.5, -1.0], requires_grad=True, name="x")
    loss = engine.sum(engine.tanh(x) * x)
    assert graph(loss).columns == {0}
    alone = graph(loss, backward="only")
    assert alone.columns == {1} and "backward, downwards" in alone.svg()
    assert {item.box.label for item in alone.view().items if item.port} == {"x", "tanh"}         # what it reads
    slope = engine.grad(loss, x, create_graph=True)
    twice = graph(engine.sum(slope * slope), backward=True)
    assert twice.columns == {0, 1, 2}
    assert all(twice.boxes[e.source].column <= b.column for b in twice.boxes for e in b.inputs)


def test_through_a_meaning_stays_one_pass():
    """A fused op without a rule of its own is differentiated through its meaning: that is still the first backward."""
    x = Tensor([1.0, 2.0, 4.0], requires_grad=True)
    assert graph(engine.logsumexp(x, axis=0), backward=True).columns == {0, 1}
    assert graph(engine.sum(engine.var(x.reshape(1, 3), axis=1)), backward=True).columns == {0, 1}


def test_what_graph_refuses():
    with pytest.raises(GraphError, match="at least one tensor"):
        graph()
    with pytest.raises(GraphError, match="requires a gradient"):
        graph(Tensor([1.0]) + 1, backward=True)
    with pytest.raises(GraphError, match="got int"):
        graph(3)
    with pytest.raises(GraphError, match="must be True, False or 'only'"):
        graph(Tensor([1.0]), backward="both")


def test_a_refused_call_is_drawn_up_to_itself():
    x = Tensor([[1.0, 2.0]], name="x")
    with pytest.raises(EngineError) as refused:
        engine.tanh(x) @ Tensor([[1.0, 2.0]], name="W")
    g = graph(refused.value)
    assert [b.label for b in g.boxes] == ["x", "tanh", "W", "matmul"] and g.boxes[-1].kind == "failed"
    assert "axis k is 2 in one input and 1 in another" in g.svg() and "#d11a1a" in g.svg()
    assert "matmul" in g.table() and refused.value.args[0] in g.html()


def test_a_refused_call_is_opened_however_the_rest_is_folded():
    with shapes_only():
        model = Transformer(ModelSettings(d_model=32, heads=4, layers=2, ffn=64), 50, 50)
        with pytest.raises(EngineError) as refused:
            model(Tensor.placeholder((8, 6), np.int64), Tensor.placeholder((9, 7), np.int64))
    g = graph(refused.value)
    for depth in (0, 1, 2):
        items = g.view(depth).items
        assert [item.box.op for item in items if item.module is None and item.box.kind == "failed"] == [g.boxes[-1].op]
    assert "the leading axes of" in g.svg(depth=0)


@pytest.mark.parametrize("name", [n for n, op in engine.OPS.items() if op.fused])
def test_every_meaning_unfolds_on_shapes_alone(name):
    """Unfused drawing runs the meanings on shapes: none of them may look at a number."""
    from engine.record import Bool, Index, Key
    op = engine.OPS[name]
    for shapes in op.samples[:3]:
        params = {k: values[0] for k, values in (op.choices(*[s for s in shapes if s is not None]) if op.choices
                                                 else {}).items()}
        with shapes_only():
            inputs = [None if s is None else Tensor.placeholder(
                s, {Bool: np.bool_, Index: np.int64, Key: np.int64}.get(type(op.kind(i)), np.float32))
                for i, s in enumerate(shapes)]
            given = [inputs] if op.variadic else inputs
            fused_shape = op(*given, **params).shape
            with unfused():
                assert op(*given, **params).shape == fused_shape


# --- ticks ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("tie", ["none", "output", "all"])
def test_the_ticks_add_up_to_the_parameters(tie):
    model, loss = primes(tie=tie, layers=2)
    g = graph(loss, backward=True)
    assert g.parameters == model.count()
    for depth in (0, 1, 2, 3, 4, None):
        items = json.loads(g.json(depth=depth, level="op"))["items"]
        assert sum(i.get("parameters", 0) * i.get("times", 1) for i in items) == model.count(), depth


def test_shared_weights_have_one_badge_and_count_once():
    _, loss = primes(tie="all")
    g = graph(loss)
    svg = g.svg(depth=2)
    assert "[A]" in svg and "shared" in svg and g.shared_weights() == {"A": "source_embedding.weight"}


def test_frozen_weights_are_hollow():
    model, _ = primes()
    model.freeze("encoder.*")
    with shapes_only():
        ids = [Tensor.placeholder((3, n), np.int64) for n in (5, 7, 7)]
        g = graph(translation_loss(model(ids[0], ids[1]), ids[2]), backward=True)
    frozen = sum(t.size for n, t in model.named_parameters() if n.startswith("encoder."))
    assert g.parameters == model.count() and f"☐ {frozen:,} frozen" in g.svg(depth=1)


# --- folding --------------------------------------------------------------------------------------
def test_folding_keeps_the_edges(step):
    """Whatever is folded, an arrow leads from one box to another just where a tensor leads from one's inside to the
    other's."""
    _, _, g = step
    for depth in (0, 1, 2, 3, None):
        view = g.view(depth, level="op")
        at = {b.id: item.id for item in view.items for b in item.boxes}
        drawn = {(k.source, k.target) for k in view.links}
        real = {(at[e.source], at[b.id]) for b in g.boxes for e in b.inputs
                if e.source in at and b.id in at and at[e.source] != at[b.id]}
        assert drawn <= real
        assert {(a, b) for a, b in real if view.items[a].box.kind != "parameter"} == drawn


def test_equal_layers_are_drawn_once_and_say_whose_weights():
    _, loss = primes(layers=4)
    g = graph(loss, backward=True)
    svg = g.svg(depth=2)
    assert svg.count("×4 (own weights)") >= 2
    opened = g.view(2, open=["encoder/layers.1"])
    assert {"layers.0", "layers.1"} <= {p[-1] for p in opened.frames} | {i.module[-1] for i in opened.items if i.module}
    shared = Tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True, name="shared.weight")
    x = Tensor([[1.0, 2.0]], name="x")
    for i in range(3):
        with engine.scope(f"layers.{i}"):
            x = engine.tanh(x @ shared)
    assert "×3 (same weights)" in graph(x).svg(depth=0)


def test_residual_connections_are_seen_at_every_level(step):
    _, _, g = step
    assert sum(b.residual for b in g.boxes) == 5                     # two in the encoder layer, three in the decoder's
    for depth in (0, 1, 2, 3):
        view = g.view(depth)
        closed = sum(item.residuals for item in view.items)
        assert closed + sum(k.residual for k in view.links) == 5


def test_a_module_that_is_not_there_is_named():
    _, loss = primes()
    with pytest.raises(GraphError, match=r"no module is called 'encoder/lairs'. There are: transformer"):
        graph(loss).svg(open=["encoder/lairs"])


def test_a_long_chain_draws_folded_without_recursion():
    x = Tensor([1.0], requires_grad=True, name="x")
    for _ in range(10000):
        x = (x * 1.0).tanh()
    g = graph(x, backward=True)
    assert len(g.boxes) > 40000 and "folded into parts" in g.notice
    assert len(g.view().items) < 150 and g.svg().startswith("<svg")
    assert g.table().count("\n") > 40000


def test_three_thousand_flat_boxes_fold_themselves():
    x = Tensor([1.0], requires_grad=True)
    for i in range(1500):
        x = x + float(i) if i % 3 else x.sin()
    g = graph(x, backward=True)
    assert "boxes in one place were folded" in g.notice and len(g.view().items) < 200


# --- text -----------------------------------------------------------------------------------------
def test_the_table_has_every_box_in_order(step):
    _, _, g = step
    lines = g.table().splitlines()
    assert [int(line.split()[0]) for line in lines[1:-1]] == [b.id for b in g.boxes]
    assert f"✓ {g.parameters:,} parameters" in lines[-1]
    inside = g.table(inside="encoder/layers.0/norm1").splitlines()
    assert len(inside) < 20 and all(line.endswith("encoder/layers.0/norm1") for line in inside[1:-1])
    assert str(g) == g.table() and "boxes" in repr(g)


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_the_golden_files_are_current(name):
    """The text of a one-layer model. After a change that is meant: python tests/redraw.py"""
    assert golden(name) == (Path(__file__).parent / "golden" / name).read_text(encoding="utf-8")


def test_the_text_is_the_same_in_every_process():
    code = ("import sys; sys.path[:0] = ['.', 'tests']; from redraw import primes; from engine import graph; "
            "import hashlib; "
            "g = graph(primes()[1], backward=True); t = g.json(depth=2) + g.dot() + g.svg() + g.html() + g.table(); "
            "print(hashlib.sha256(t.encode()).hexdigest())")
    found = {subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, capture_output=True,
                            text=True, check=True, env={"PYTHONHASHSEED": seed, "PATH": ""}).stdout for seed in "12"}
    assert len(found) == 1


def test_json_is_data_and_dot_is_dot(step):
    _, _, g = step
    data = json.loads(g.json())
    assert len(data["boxes"]) == len(g.boxes) and data["parameters"] == g.parameters
    assert len(data["edges"]) == sum(len(b.inputs) for b in g.boxes)
    dot = g.dot(depth=2)
    assert dot.count("{") == dot.count("}") and dot.startswith("digraph")
    assert len(re.findall(r"^ +n\d+ \[", dot, re.M)) == len(g.view(2).items)
