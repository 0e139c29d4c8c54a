"""A Numba kernel of your own under an op of your own: first with a wrong tail, which is found, then right.

Run `python examples/own_kernel.py`.
"""
import math

import numpy as np
from numba import njit

import engine
from engine import Tensor, kernel_for, op
from engine.check import CheckError, check_op

squareplus = op(
    "squareplus",
    lambda x: (x + np.sqrt(x * x + x.dtype.type(4))) / x.dtype.type(2),
    lambda g, y, x: g * 0.5 * (1 + x / (x * x + 4.0) ** 0.5),
    saves=(0,),
    result="float",
    equation=("Y = (X + √(X² + 4)) / 2", "X̄ = Ȳ ⊙ (1 + X ⊘ √(X² + 4)) / 2"),
    doc="A smooth relu without exponentials (Barron 2021).",
)


@njit
def loop(x, out, n):
    for i in range(n):
        out[i] = (x[i] + math.sqrt(x[i] * x[i] + 4)) / 2


def run(x, length):
    out = np.zeros(x.size, x.dtype)
    loop(np.ascontiguousarray(x).reshape(-1), out, length(x.size))
    return out.reshape(x.shape)


if __name__ == "__main__":
    @kernel_for(squareplus)
    def four_at_a_time(x):
        return run(x, lambda n: n // 4 * 4)          # forgets the numbers that are left over

    try:
        check_op(squareplus)
        raise SystemExit("the wrong tail was not found")
    except CheckError as e:
        print("found:", str(e).splitlines()[0], "\n")

    @kernel_for(squareplus)
    def fast(x):
        return run(x, lambda n: n)

    check_op(squareplus)
    step = engine.replay(lambda x: squareplus(x).sum())      # a recorded step calls it as well
    x = np.linspace(-2, 2, 7)
    assert step(x).item() == squareplus(Tensor(x)).sum().item() == step(x).item()
    print(f"{squareplus}: its kernel is its meaning; all checks passed")
