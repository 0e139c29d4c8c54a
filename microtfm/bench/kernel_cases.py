"""What `bench kernels` runs: each kernel over the Transformer's shapes, on the same inputs for every side."""
from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from microtfm.bench.sizes import Size

UNARY = ("exp", "log", "sin", "cos", "tanh", "sigmoid", "erf", "silu", "relu", "sqrt", "abs", "neg")
UNARY_VJP = ("relu_vjp", "tanh_vjp", "sigmoid_vjp", "silu_vjp")
BINARY = ("add", "sub", "mul", "div", "pow", "maximum", "minimum")
REDUCTIONS = ("sum", "max", "min", "argmax")
HEADS = ("scaled_dot_product_attention", "scaled_dot_product_attention_vjp")
PACKED = ("self_attention", "self_attention_vjp", "cross_attention", "cross_attention_vjp")
UPDATES = ("global_norm", "adam", "sgd")
ALONE = ("linear_vjp", "linears_input_vjp", "relu_dropout_vjp")  # pullbacks that read nothing an op has kept for them
SMOOTHING, P = 0.1, 0.1


@dataclass(frozen=True)
class Case:
    """One kernel on one shape.

    shape: (rows, features) of what works on elements and rows; (m, k, n) or (batch, m, k, n) of products and linear
    layers; (batch, heads, queries, keys, features of a head) of attention; (rows of the table, features, ids) of a
    look-up; (rows of the table, features, sentences, tokens) of embed. form: words that say which way it is done: the
    operand of a product that is transposed ("a.mT", "b.mT"), the axis of a reduction, a bias ("row"), "causal", "relu",
    "dropout", how many "layers", or the size whose parameters are updated.
    """
    kernel: str
    shape: tuple[int, ...]
    form: str = ""
    group: str = ""
    dtype: str = "float32"

    def plain(self) -> dict[str, Any]:
        """As plain values, from which `case(values)` makes it again."""
        return dataclasses.asdict(self)

    @property
    def backward(self) -> bool:
        """Whether it is the pullback of an op that runs before it: its inputs are the op's, then the cotangent."""
        return self.kernel.endswith("_vjp") and self.kernel not in ALONE

    @property
    def op(self) -> str:
        """The op, or the op whose pullback it is."""
        return self.kernel.removesuffix("_vjp") if self.backward else self.kernel

    @property
    def p(self) -> float:
        """The probability of dropout."""
        return P if "dropout" in self.form or self.op == "dropout" else 0.0

    @property
    def layers(self) -> int:
        """Of linear layers side by side."""
        return self.shape[-1] // self.shape[-2] if self.kernel.startswith("linears") or "layers" in self.form else 1

    def parameters(self) -> dict[str, Any]:
        """The parameters of `op`."""
        op = self.op
        if op in REDUCTIONS:
            return {"axis": 0 if self.form == "columns" else -1}
        if op == "cross_entropy":
            return {"label_smoothing": SMOOTHING}
        if op == "take":
            return {"axis": 0}
        if op == "scatter_add":
            return {"axis": 0, "size": self.shape[0]}
        if op == "linear_vjp":
            return {"widths": (self.shape[-1] // self.layers,) * self.layers}
        if op == "linear":
            return {"activation": "relu" if "relu" in self.form else "none", "p": self.p}
        if op in HEADS:
            return {"causal": "causal" in self.form, "p": self.p}
        if op in PACKED:
            return {"heads": self.shape[1], "causal": "causal" in self.form, "p": self.p}
        if op == "embed":
            return {"scale": math.sqrt(self.shape[1]), "p": self.p}
        return {"p": self.p} if op in ("dropout", "add_norm", "relu_dropout_vjp") else {}


def case(values: dict[str, Any]) -> Case:
    """A case from its plain values."""
    return Case(**{**values, "shape": tuple(values["shape"])})


# --- the list -------------------------------------------------------------------------------------
HEIGHTS = (256, 768, 1024, 2048)
PANELS = ((64, 64), (64, 256), (128, 128), (128, 4000), (256, 1024), (512, 2048))
BATCHED = ((256, 16, 32, 16), (256, 16, 16, 32), (512, 20, 64, 20), (512, 20, 20, 64))
TOYS = ((33,), ((9, 20),), ((3, 5, 8, 5),))              # the same three lists, for a simulator
DTYPES = ("float32", "float64")


def products(toy: bool = False) -> list[Case]:
    """Matrix products, plain and with either operand transposed, and attention's batches of small ones."""
    forms, (heights, panels, batched) = ("", "a.mT", "b.mT"), TOYS if toy else (HEIGHTS, PANELS, BATCHED)
    plain = [Case("matmul", (m, k, n), form, f"matmul, {dtype}", dtype)
             for dtype in DTYPES for m in heights for k, n in panels for form in forms]
    return plain + [Case("matmul", shape, form, "matmul, batches") for shape in batched for form in ("", "b.mT")]


def of_size(size: Size) -> list[Case]:
    """Every other kernel over the shapes of a size."""
    count = (size.parameters(),)
    found = _elements(size) + _rows(size) + _linear(size) + _attention(size) + _tables(size)
    found.append(Case("adam", count, size.name, "clip and adam"))
    return found + [Case(kernel, count, size.name, "update") for kernel in ("global_norm", "sgd")]


def _elements(size: Size) -> list[Case]:
    rows = size.batch * size.length
    inner, model = (rows, size.ffn), (rows, size.d_model)
    found = [Case(kernel, inner, group="elementwise") for kernel in UNARY + UNARY_VJP]
    found += [Case(kernel, model, group="elementwise") for kernel in (*BINARY, "where", "not_equal")]
    found.append(Case("add", inner, "row", "elementwise"))
    found += [Case(kernel, inner, group="gelu") for kernel in ("gelu", "gelu_vjp")]
    found += [Case(kernel, inner, group="dropout") for kernel in ("dropout", "dropout_vjp")]
    return [*found, Case("uniform", inner, group="random numbers")]


def _rows(size: Size) -> list[Case]:
    rows = size.batch * size.length
    inner, model, logits = (rows, size.ffn), (rows, size.d_model), (rows, size.vocabulary)
    scores = (size.batch, size.heads, size.length, size.length)
    found = [Case("sum", shape, form, "reduction") for shape in (inner, model) for form in ("rows", "columns")]
    found += [Case(kernel, logits, "rows", "reduction") for kernel in ("max", "min", "argmax")]
    for group, shape in (("softmax", scores), ("log_softmax", scores), ("log_softmax", logits), ("layer_norm", model),
                         ("cross_entropy", logits)):
        found += [Case(kernel, shape, group=group) for kernel in (group, f"{group}_vjp")]
    return found + [Case(kernel, model, form, "add_norm")
                    for kernel in ("add_norm", "add_norm_vjp") for form in ("", "dropout")]


def _linear(size: Size) -> list[Case]:
    """The projections of attention, and both layers of the feed-forward."""
    d, rows, ffn = size.d_model, size.batch * size.length, size.ffn
    found = [("linear", (d, d), ""), ("linear", (d, ffn), "relu"), ("linear", (d, ffn), "relu, dropout"),
             ("linear", (ffn, d), ""), ("linears", (d, 2 * d), ""), ("linears", (d, 3 * d), ""),
             ("linear_vjp", (d, ffn), ""), ("linear_vjp", (ffn, d), ""), ("linear_vjp", (d, 3 * d), "3 layers"),
             ("linears_input_vjp", (d, 2 * d), ""), ("linears_input_vjp", (d, 3 * d), "")]
    return [Case(kernel, (rows, *shape), form, "linear") for kernel, shape, form in found] + [
        Case("relu_dropout_vjp", (rows, ffn), form, "linear") for form in ("", "dropout")]


def _attention(size: Size) -> list[Case]:
    shape = (size.batch, size.heads, size.length, size.length, size.d_model // size.heads)
    found = [Case(kernel, shape, form, "attention") for kernel in HEADS for form in ("", "causal", "dropout")]
    return found + [Case(kernel, shape, form, "attention, packed") for kernel in PACKED for form in ("", "dropout")]


def _tables(size: Size) -> list[Case]:
    v, d = size.vocabulary, size.d_model
    found = [Case(kernel, (v, d, size.batch * size.length), group="look-up")
             for kernel in ("embedding", "take", "scatter_add")]
    return found + [Case(kernel, (v, d, size.batch, size.length), form, "look-up")
                    for kernel in ("embed", "embed_vjp") for form in ("", "dropout")]
