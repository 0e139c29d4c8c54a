"""What `bench kernels` runs: each kernel over the Transformer's shapes, on the same inputs for every side."""
from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from microtfm.bench.sizes import SIZES, Size

UNARY = ("exp", "log", "sin", "cos", "tanh", "sigmoid", "erf", "gelu", "silu", "relu", "sqrt", "abs", "neg")
UNARY_VJP = ("relu_vjp", "gelu_vjp", "tanh_vjp", "sigmoid_vjp", "silu_vjp")
BINARY = ("add", "sub", "mul", "div", "pow", "maximum", "minimum")
ROWS, ROWS_VJP = ("softmax", "log_softmax"), ("softmax_vjp", "log_softmax_vjp")
ATTENTION = ("scaled_dot_product_attention", "scaled_dot_product_attention_vjp")
UPDATES = ("sum_of_squares", "adam", "sgd")
PER_ELEMENT = {"softmax": 5, "softmax_vjp": 4, "log_softmax": 5, "log_softmax_vjp": 4, "layer_norm": 8,
               "layer_norm_vjp": 14, "cross_entropy": 6, "cross_entropy_vjp": 6, "sum_of_squares": 2, "adam": 14,
               "sgd": 4}
SMOOTHING, P = 0.1, 0.1


@dataclass(frozen=True)
class Case:
    """One kernel on one shape.

    shape: (rows, features) of what works on elements and rows; (m, k, n) or (batch, m, k, n) of a product;
    (batch, heads, queries, keys, features) of attention; (rows of the table, features, ids) of a look-up. form: the
    operand of a product that is transposed ("a.mT", "b.mT"), the axis of a sum, a bias ("row"), "causal", "dropout",
    or the size whose parameters are updated.
    """
    kernel: str
    shape: tuple[int, ...]
    form: str = ""
    group: str = ""

    def plain(self) -> dict[str, Any]:
        """As plain values, from which `case(values)` makes it again."""
        return dataclasses.asdict(self)

    def inputs(self) -> list[Any]:
        """Arrays, or for updates lists of arrays: float32 from [−2, 2), positive where the kernel needs it."""
        rng = np.random.default_rng(0)

        def reals(*shape: int, low: float = -2.0) -> np.ndarray:
            return rng.uniform(low, 2.0, shape).astype(np.float32)

        s = self.shape
        if self.kernel == "matmul":
            *batch, m, k, n = s
            a = reals(*batch, k, m).swapaxes(-1, -2) if self.form == "a.mT" else reals(*batch, m, k)
            return [a, reals(*batch, n, k).swapaxes(-1, -2) if self.form == "b.mT" else reals(*batch, k, n)]
        if self.kernel in ATTENTION:
            b, h, t, keys, k = s
            qkv = [reals(b, h, t, k), reals(b, h, keys, k), reals(b, h, keys, k)]
            return [*qkv, reals(b, h, t, k)] if self.kernel.endswith("_vjp") else qkv
        if self.kernel in UPDATES:
            shapes = SIZES[self.form].shapes() if self.form in SIZES else [s]
            return [[reals(*shape, low=-2.0 if i < 3 else 0.0) for shape in shapes] for i in range(4)]
        if self.kernel in ("embedding", "take", "scatter_add"):
            size, d, n = s
            ids = rng.integers(0, size, n)
            return [reals(n, d) if self.kernel == "scatter_add" else reals(size, d), ids]
        if self.kernel.startswith("cross_entropy"):
            return [reals(*s), rng.integers(0, s[-1], s[:-1])]
        if self.kernel.startswith("layer_norm"):
            x = [reals(*s), reals(s[-1]), reals(s[-1])]
            return [*x, reals(*s)] if self.kernel.endswith("_vjp") else x
        if self.kernel == "where":
            return [reals(*s) > 0, reals(*s), reals(*s)]
        low = 0.1 if self.kernel in ("log", "sqrt", "pow", "div") else -2.0
        count = 2 if self.kernel in BINARY or self.kernel.endswith("_vjp") else 1
        made = [reals(*s, low=low) for _ in range(count)]
        if self.form == "row":
            made[1] = np.ascontiguousarray(made[1][0])
        return made

    def cost(self) -> tuple[float, float]:
        """FLOP, and the bytes that must at least be read and written. Arithmetic but products is counted roughly."""
        s, given = self.shape, _bytes(self.inputs())
        if self.kernel == "matmul":
            *batch, m, k, n = s
            count = math.prod(batch)
            return 2.0 * count * m * k * n, given + 4.0 * count * m * n
        if self.kernel in ATTENTION:
            b, h, t, keys, k = s
            products, scores = (5, 9) if self.kernel.endswith("_vjp") else (2, 5)
            written = t + 2 * keys if self.kernel.endswith("_vjp") else t
            return b * h * t * keys * (2.0 * k * products + scores), given + 4.0 * b * h * k * written
        if self.kernel in UPDATES:
            count = math.prod(s)
            moved = {"sum_of_squares": 4.0, "adam": 32.0, "sgd": 20.0}[self.kernel]
            return float(PER_ELEMENT[self.kernel] * count), moved * count
        if self.kernel in ("embedding", "take", "scatter_add"):
            size, d, n = s
            rows = 4.0 * n * d
            return 0.0, 8.0 * n + (rows + 4.0 * size * d if self.kernel == "scatter_add" else 2 * rows)
        elements = math.prod(s)
        written = 0 if self.kernel in ("cross_entropy", "sum") else elements
        read = 0 if self.kernel == "uniform" else given
        return float(PER_ELEMENT.get(self.kernel, 1) * elements), read + 4.0 * written


def case(values: dict[str, Any]) -> Case:
    """A case from its plain values."""
    return Case(**{**values, "shape": tuple(values["shape"])})


def _bytes(inputs: list[Any]) -> float:
    return float(sum(_bytes(x) if isinstance(x, list) else x.nbytes for x in inputs))


# --- the list -------------------------------------------------------------------------------------
HEIGHTS = (256, 768, 1024, 2048)
PANELS = ((64, 64), (64, 256), (128, 128), (128, 4000), (256, 1024), (512, 2048))
BATCHED = ((256, 16, 32, 16), (256, 16, 16, 32), (512, 20, 64, 20), (512, 20, 20, 64))


def products() -> list[Case]:
    """Matrix products, plain and with either operand transposed, and attention's batches of small ones."""
    forms = ("", "a.mT", "b.mT")
    plain = [Case("matmul", (m, k, n), form, "matmul") for m in HEIGHTS for k, n in PANELS for form in forms]
    return plain + [Case("matmul", shape, form, "matmul, batches") for shape in BATCHED for form in ("", "b.mT")]


def of_size(size: Size) -> list[Case]:
    """Every other kernel over the shapes of a size."""
    d, t, rows = size.d_model, size.length, size.batch * size.length
    inner, model, logits = (rows, size.ffn), (rows, d), (rows, size.vocabulary)
    heads = (size.batch, size.heads, t, t)
    table = (size.vocabulary, d, rows)
    count = (size.parameters(),)
    cases = [Case(kernel, inner, group="elementwise") for kernel in UNARY + UNARY_VJP]
    cases += [Case(kernel, model, group="elementwise") for kernel in (*BINARY, "where")]
    cases.append(Case("add", inner, "row", "elementwise"))
    cases += [Case("sum", shape, form, "sum") for shape in (inner, model) for form in ("rows", "columns")]
    cases += [Case(kernel, heads, group="softmax") for kernel in ROWS + ROWS_VJP]
    cases += [Case(kernel, logits, group="softmax") for kernel in ("log_softmax", "log_softmax_vjp")]
    cases += [Case(kernel, model, group="layer_norm") for kernel in ("layer_norm", "layer_norm_vjp")]
    cases += [Case(kernel, logits, group="cross_entropy") for kernel in ("cross_entropy", "cross_entropy_vjp")]
    cases += [Case(kernel, (*heads, d // size.heads), form, "attention")
              for kernel in ATTENTION for form in ("", "causal", "dropout")]
    cases += [Case(kernel, inner, group="dropout") for kernel in ("dropout", "uniform")]
    cases += [Case(kernel, table, group="look-up") for kernel in ("embedding", "take", "scatter_add")]
    return cases + [Case(kernel, count, size.name, "update") for kernel in UPDATES]
