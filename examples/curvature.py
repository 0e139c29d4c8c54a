"""A double backward: the curvature of f(x) = Σ tanh(x)² along v, and the picture of the three passes."""
import math
import sys
from pathlib import Path

import engine
from engine import Tensor, grad, graph

x = Tensor([0.5, -1.0, 2.0], requires_grad=True, name="x")
v = Tensor([1.0, 2.0, -1.0], name="v")
x.axes = v.axes = ("N",)

y = engine.tanh(x)
f = engine.sum(y * y)
slope = grad(f, x, create_graph=True)    # the gradient, recorded: it can be differentiated like anything else
slope.name = "gradient"
along = engine.sum(slope * v)            # <gradient, v>
curved = grad(along, x, retain_graph=True)               # its gradient: the Hessian times v

for value, way, found in zip(x.numpy(), v.numpy(), curved.numpy(), strict=True):
    t = math.tanh(value)
    assert abs(found - way * 2 * (1 - t * t) * (1 - 3 * t * t)) < 1e-5

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures"
picture = graph(along, backward=True)
assert picture.columns == {0, 1, 2}      # forward, backward, and the backward of the backward
picture.save(folder / "curvature.svg", title="a double backward")
print(f"curvature of Σ tanh² along v: {curved.numpy().round(4).tolist()}; drawn in {folder / 'curvature.svg'}")
