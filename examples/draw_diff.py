"""Two graphs compared: post-norm against pre-norm by their structure, float32 against float64 by their values."""
import sys
from pathlib import Path

import numpy as np

import engine
from engine import Tensor, graph, observe, shapes_only
from microtfm import Transformer
from microtfm.loss import translation_loss
from microtfm.settings import ModelSettings

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures"


def structure(norm):
    """The graph of a two-layer model with its norms after or before the sublayers, without a number computed."""
    with shapes_only():
        model = Transformer(ModelSettings(d_model=32, heads=4, layers=2, ffn=64, norm=norm, final_norm=False), 50, 50)
        source, target, following = (Tensor.placeholder((8, n), np.int64) for n in (6, 7, 7))
        return graph(translation_loss(model(source, target), following))


def values(dtype):
    """Attention over random numbers, forward and backward, measured in one precision."""
    rng = np.random.default_rng(0)
    q, k, v = (Tensor(rng.normal(size=(2, 4, 6, 8)), dtype=dtype, requires_grad=True, name=name) for name in "qkv")
    for tensor in (q, k, v):
        tensor.axes = ("B", "H", "T", "K")
    with observe(times=False), engine.unfused():
        weights = engine.softmax(q @ k.mT * 8 ** -0.5, axis=-1)
        loss = engine.sum(weights @ v)
        loss.backward()
    return graph(loss, backward=True)


found = structure("post").diff(structure("pre"))
assert found.added and found.removed and not found.departures
found.save(folder / "diff_norm.svg", depth=3, inside="encoder/layers.0", title="post-norm (−) against pre-norm (+)")

exact = values("float32").diff(values("float64"), tolerance=1e-7)
assert exact.first is not None and not exact.added
exact.save(folder / "diff_precision.svg", level="op", title="attention in float32 against float64")
print(f"post-norm to pre-norm: {len(found.removed)} boxes go, {len(found.added)} come, {len(found.rewired)} read "
      "something else")
print(str(exact).splitlines()[-1])
