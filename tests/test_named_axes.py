"""Names of axes go through ops that rearrange, order, reduce and contract, and come back with the gradients."""
import numpy as np
import pytest

import engine
from engine import Tensor, graph, shapes_only, unfused

IDS = {"batch": (4,), "places": (4, 6, 3)}


def _ids(name):
    return Tensor.placeholder(IDS[name], np.int64)


@pytest.mark.parametrize("level", ["fused", "unfused"])
@pytest.mark.parametrize(("f", "axes"), [
    (lambda x: engine.flip(x, axis=1), "B×T×D"), (lambda x: engine.sort(x, axis=1), "B×T×D"),
    (lambda x: engine.cumprod(x, axis=1), "B×T×D"), (lambda x: engine.tril(x, k=1), "B×T×D"),
    (lambda x: engine.topk(x, 2)[0], "B×T×2"), (lambda x: engine.moveaxis(x, 0, -1), "T×D×B"),
    (lambda x: engine.unstack(x)[0], "T×D"), (lambda x: engine.norm(x, axis=-1), "B×T"),
    (lambda x: engine.std(x, axis=1), "B×D"), (lambda x: engine.prod(x, axis=2), "B×T"),
    (lambda x: engine.normalize(x), "B×T×D"), (lambda x: engine.rms_norm(x), "B×T×D"),
    (lambda x: engine.softplus(x), "B×T×D"), (lambda x: engine.mse_loss(x, x, reduction="none"), "B×T×D"),
    (lambda x: engine.take_along_axis(x, _ids("places")), "B×T×3"),
    (lambda x: engine.index_add(x, _ids("batch"), x), "B×T×D"),
    (lambda x: engine.einsum("btd,bsd->bts", x, x), "B×T×T"), (lambda x: engine.einsum("...d->d...", x), "D×B×T"),
    (lambda x: engine.tensordot(x, x, axes=((2,), (2,))), "B×T×B×T"),
    (lambda x: engine.outer(x[0, 0], x[0, :, 0]), "D×T"),
], ids=range(20))
def test_the_names_arrive(f, axes, level):
    with shapes_only():
        x = Tensor.placeholder((4, 6, 8))
        x.requires_grad, x.name, x.axes = True, "x", ("B", "T", "D")
        if level == "unfused":
            with unfused():
                y = f(x)
        else:
            y = f(x)
        y.name = "result"
        g = graph(engine.sum(y), backward=True)
    boxes = {box.name: box for box in g.boxes}
    assert "×".join(size.text() for size in boxes["result"].sizes) == axes
    assert [size.text() for size in g.boxes[boxes["x"].gradient].sizes] == ["B", "T", "D"]
