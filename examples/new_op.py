"""A new op in ten lines: squareplus. Its shapes, dtypes and gradients of both orders are checked from its record.

Run `python examples/new_op.py`, or all generated tests on it: `pytest -p new_op tests/test_ops.py -k squareplus`
with this folder on the Python path.
"""
import numpy as np

from engine import Tensor, op, sqrt
from engine.check import check_op

squareplus = op(
    "squareplus",
    lambda x: (x + np.sqrt(x * x + 4)) / 2,
    lambda g, y, x: g * (1 + x / sqrt(x * x + 4)) / 2,
    saves=(0,),
    result="float",
    equation=("Y = (X + √(X² + 4)) / 2", "X̄ = Ȳ ⊙ (1 + X ⊘ √(X² + 4)) / 2"),
    doc="A smooth relu without an exponential: (x + √(x² + 4)) / 2 (Barron 2021).",
)

if __name__ == "__main__":
    check_op(squareplus)
    x = Tensor([-1.0, 0.0, 1.0], requires_grad=True)
    squareplus(x).sum().backward()
    print(f"{squareplus}: all checks passed; its gradient at {x.tolist()} is {np.round(x.grad.numpy(), 4).tolist()}")
