"""A new op in ten lines: softplus. Its kernel, shapes, dtypes and gradients of both orders are checked from its record.

Run `python examples/new_op.py`, or all generated tests on it: `pytest -p new_op tests/test_ops.py -k softplus`
with this folder on the Python path.
"""
import numpy as np

from engine import Tensor, op, sigmoid
from engine.check import check_op

softplus = op(
    "softplus",
    lambda x: np.logaddexp(x, x.dtype.type(0)) if x.dtype.kind == "f" else np.log(1 + np.exp(x)),
    lambda g, y, x: g * sigmoid(x),
    saves=(0,),
    result="float",
    equation=("Y = log(1 + eˣ)", "X̄ = Ȳ ⊙ σ(X)"),
    doc="A smooth relu: log(1 + eˣ).",
)

if __name__ == "__main__":
    check_op(softplus)
    x = Tensor([-1.0, 0.0, 1.0], requires_grad=True)
    softplus(x).sum().backward()
    print(f"{softplus}: all checks passed; its gradient at {x.tolist()} is {np.round(x.grad.numpy(), 4).tolist()}")
