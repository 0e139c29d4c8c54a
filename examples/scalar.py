"""The scalar chain J = 3 (a + b c), differentiated by hand and by the engine: run `python examples/scalar.py`."""
import sys
from pathlib import Path

from engine import Tensor, graph, observe

a, b, c = 5.0, 3.0, 2.0

# By hand, one step at a time: u = b c, v = a + u, J = 3 v. Backwards, each step multiplies by its own slope.
dJ_dv = 3.0
dJ_da = dJ_dv * 1
dJ_du = dJ_dv * 1
dJ_db = dJ_du * c
dJ_dc = dJ_du * b

# By the engine: write the same chain, ask for the gradients.
A, B, C = (Tensor(x, requires_grad=True, name=name) for name, x in (("a", a), ("b", b), ("c", c)))
with observe(times=False):               # for the picture: what every box held
    V = (A + B * C).retain_grad()
    J = 3 * V
    J.backward()
V.name, J.name = "v", "J"

assert J.item() == 3 * (a + b * c)
assert V.grad.item() == dJ_dv == 3
assert A.grad.item() == dJ_da == 3
assert B.grad.item() == dJ_db == 3 * c
assert C.grad.item() == dJ_dc == 3 * b

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures"
graph(J, backward=True).save(folder / "scalar.svg", title="J = 3 (a + b c)")

print(f"J = 3 (a + b c) = {J.item():g} at a = {a:g}, b = {b:g}, c = {c:g}")
print(f"by hand and by the engine: dJ/dv = {V.grad.item():g}, dJ/da = {A.grad.item():g}, "
      f"dJ/db = 3c = {B.grad.item():g}, dJ/dc = 3b = {C.grad.item():g}")
