"""A forward pass that fails, drawn as far as it came: the call that was refused is red and says why.

Your own code is drawn the same way: catch the error, give it to `graph`.
"""
import sys
from pathlib import Path

import numpy as np

import engine
from engine import Tensor, graph, scope

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures"


def attention(x, memory):
    """Single-headed attention with a mistake: the keys are not transposed."""
    with scope("attention"):
        q, k, v = x @ weights["query"], memory @ weights["key"], memory @ weights["value"]
        q.name, k.name, v.name = "Q", "K", "V"
        return engine.softmax(q @ k, axis=-1) @ v            # it should be k.mT


rng = np.random.default_rng(0)
weights = {name: Tensor(rng.normal(size=(16, 8)), requires_grad=True, name=f"{name}.weight")
           for name in ("query", "key", "value")}
for weight in weights.values():
    weight.axes = ("D", "K")             # the names that the picture shows on every edge
x, memory = (Tensor(rng.normal(size=(2, n, 16)), name=name) for name, n in (("x", 5), ("memory", 7)))
x.axes, memory.axes = ("B", "T", "D"), ("B", "S", "D")

try:
    attention(x, memory)
except engine.EngineError as error:
    picture = graph(error)
    picture.save(folder / "failure.svg", title="a forward pass up to the call that was refused")
    assert picture.boxes[-1].kind == "failed" and picture.boxes[-1].op == "matmul"
    print(error)
    print(f"drawn in {folder / 'failure.svg'}")
else:
    raise AssertionError("the mistake went unnoticed")
