"""An activation of your own whose gradient is wrong: found, and shrunk to one number; then right.

Run `python examples/property_test.py`, or `pytest examples/property_test.py` for the last two alone.
"""
import numpy as np

from engine import Tensor, op, sigmoid
from engine.check import GradcheckError, gradient_test


def swish_op(name, rule):
    return op(name, lambda x: x / (1 + np.exp(-x)), rule, saves=(0,), result="float",
              equation=("Y = X ⊙ σ(X)", "X̄ = Ȳ ⊙ σ(X) ⊙ (1 + X ⊙ (1 − σ(X)))"))


wrong_swish = swish_op("wrong_swish", lambda g, y, x: g * sigmoid(x) * (1 + x * sigmoid(x)))      # 1 − is missing
right_swish = swish_op("right_swish", lambda g, y, x: g * sigmoid(x) * (1 + x * (1 - sigmoid(x))))


def wrong(x):
    return wrong_swish(x)


@gradient_test(order=2)
def right(x):
    return right_swish(x)


@gradient_test(signature="(n,k),(k,m)->(n,m)")
def layer(x, w):
    return right_swish(x @ w)


if __name__ == "__main__":
    try:
        gradient_test(wrong)()
        raise SystemExit("the wrong gradient was not found")
    except GradcheckError as e:
        print(f"found: {e}\n")
        assert Tensor(eval(str(e).split("x0 = ")[1].splitlines()[0], {"np": np})).size == 1       # as small as can be
    right()
    layer()
    print("right: the gradients of right_swish and of a layer with it are their slopes, to second order")
