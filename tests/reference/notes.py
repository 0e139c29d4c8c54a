"""Where an op is meant to differ from a reference, and why: by op and kind of edge value ("": on all samples)."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Reason(NamedTuple):
    """Why an op differs, in which libraries (none: all), on which samples."""
    text: str
    libraries: tuple[str, ...] = ()
    where: Callable[[Any], bool] = lambda sample: True

    def covers(self, sample: Any, library: str) -> bool:
        return (not self.libraries or library in self.libraries) and self.where(sample)


APART: dict[tuple[str, str], Reason] = {}


def _apart(ops: str, edges: str, text: str, *libraries: str,
           where: Callable[[Any], bool] = lambda sample: True) -> None:
    for op in ops.split():
        for edge in edges.split() or [""]:
            APART[op, edge] = Reason(text, libraries, where)


FLUSHED = Reason("XLA takes subnormal numbers for 0 on the CPU", ("JAX",))
ATTENTION = ("scaled_dot_product_attention scaled_dot_product_attention_vjp self_attention self_attention_vjp "
             "cross_attention cross_attention_vjp")
SUMS = "matmul dot tensordot einsum linear linears linears_input_vjp linear_vjp"

_apart(SUMS, "huge subnormal", "terms of very different size cancel or overflow in the order in which they are summed")
_apart("einsum", "infinities", "letters of one tensor are summed before the product, so ∞ − ∞ arises elsewhere")
_apart("std var layer_norm layer_norm_vjp add_norm add_norm_vjp group_norm rms_norm", "huge subnormal",
       "squares of huge numbers overflow in another order; differences of subnormal ones are rounding errors over √ε")
_apart("layer_norm layer_norm_vjp add_norm add_norm_vjp group_norm", "infinities",
       "with ∞ in a row its mean and all of the row are NaN or ∞, by order of evaluation")
_apart("softmax log_softmax", "infinities", "+∞ in a row leaves 0 beside it here, NaN in the whole row there")
_apart(ATTENTION, "infinities NaN huge", "what is masked, or has weight 0, is never read here; 0 · NaN is NaN there")
_apart(ATTENTION, "sure subnormal", "products of three numbers of very different size cancel")
_apart("cross_entropy_vjp", "NaN", "an ignored id has a gradient of 0, whatever its logits are")
_apart("cross_entropy cross_entropy_vjp", "infinities", "a logit of +∞ leaves the others' gradient 0 here, NaN there")
_apart("sign", "NaN", "the sign of NaN is NaN, as in NumPy; PyTorch says 0", "PyTorch")
_apart("hard_tanh", "ties zeros", "at a limit the gradient is 1, as PyTorch's own clamp has it; its hardtanh has 0, "
       "JAX halves it", "PyTorch", "JAX")
_apart("hard_sigmoid hard_silu", "", "PyTorch takes 1/6 in single precision", "PyTorch",
       where=lambda sample: sample.arrays[0].dtype == "float64")
_apart("softplus", "huge", "βx overflows")
_apart("hypot", "zeros sure", "the gradient at the origin is 0 here, NaN there")
_apart("acosh", "ties zeros sure", "outside [1, ∞) the value is NaN and so is the gradient; there it is a number")
_apart("remainder floor_divide", "subnormal huge infinities", "here as in NumPy, from an exact remainder; PyTorch and "
       "JAX round a quotient that overflows", "PyTorch", "JAX")
_apart("kl_div", "zeros", "the gradient at a target of 0 is taken as 0 here, NaN there", "PyTorch")
_apart("binary_cross_entropy_with_logits", "infinities", "∞ is no probability: the orders of evaluation differ")
_apart("binary_cross_entropy", "", "PyTorch limits a logarithm to −100; here being sure and wrong costs ∞", "PyTorch",
       where=lambda sample: sample.arrays[0].dtype.kind in "iub")
_apart("pow", "zeros sure", "0⁰ has gradients of 0, negative powers of 0 infinite ones, as in PyTorch; JAX: NaN", "JAX")
_apart("abs", "zeros", "the gradient at 0 is 0, as in PyTorch; JAX has ±1", "JAX")
_apart("relu", "zeros", "the formula for JAX is a maximum with 0, which halves the gradient at 0; here it is 0", "JAX")
_apart("atan2", "zeros sure", "the gradient at the origin is 0, as in PyTorch; JAX has NaN", "JAX")
_apart("sort", "ties zeros sure", "descending, the formula for JAX is a sorted array turned round: equal numbers "
       "change places", "JAX", where=lambda sample: sample.params["descending"])
_apart("clip", "ties zeros", "at a limit the gradient is 1, as PyTorch has it; JAX halves it", "JAX")
_apart("std", "ties zeros sure", "the gradient where all numbers are equal is 0; JAX has NaN", "JAX")
_apart("l1_loss", "zeros ties sure", "the gradient at the target is 0; JAX has ±1", "JAX")
_apart("argsort", "NaN", "descending, NaN comes first: it counts as the largest, as in PyTorch", "NumPy", "JAX",
       where=lambda sample: sample.params["descending"])

# Ops whose rounding errors grow: by how much.
STIFF = dict.fromkeys(("layer_norm", "layer_norm_vjp", "add_norm", "add_norm_vjp", "group_norm"), 400.0)    # 1/√ε

# Ops that no reference knows: the reason why nothing stands in for one. There are none.
ALONE: dict[str, str] = {}
