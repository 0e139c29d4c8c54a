"""The kernels of the benchmark: that all are measured, that every side computes the same, and what each costs."""
from importlib.util import find_spec

import numpy as np
import pytest

from engine import OPS
from engine.kernels.cpu import MODULES, jit_disabled
from microtfm.bench import costs, kernel_cases, kernels
from microtfm.bench.kernel_cases import HEADS, PACKED, UPDATES, Case
from microtfm.bench.kernel_inputs import inputs
from microtfm.bench.kernel_numpy import NumpyKernels
from microtfm.bench.kernel_ours import OurKernels
from microtfm.bench.sizes import SIZES, Size
from microtfm.errors import UserError

MICRO = Size("micro", d_model=8, heads=2, layers=2, ffn=12, vocabulary=23, batch=3, length=5)
# In-place rules that only move numbers or count: their time is in the profile of a step, where they are called.
BOOKKEEPING = {"copy", "accumulate", "average", "write", "count"}
# One comparison or choice an element, each at the rate of memory as `add` is, which stands for them.
TRIFLES = {"clip", "astype", "max", "min", "argmax", "equal", "not_equal", "less", "less_equal", "greater",
           "greater_equal", "logical_and", "logical_or", "logical_not", "isnan", "isinf", "isfinite"}


def small_cases():
    of_size = [Case(case.kernel, (MICRO.vocabulary,), "", case.group) if case.kernel in UPDATES else case
               for case in kernel_cases.of_size(MICRO)]
    forms = ("", "a.mT", "b.mT")
    return of_size + [Case("matmul", shape, form, "matmul", dtype) for shape in ((7, 5, 9), (3, 4, 5, 6))
                      for form in forms for dtype in kernel_cases.DTYPES]


def answer_of(side, case):
    """What a side computes, all of it in one vector, as our joint pullbacks give it; None where it cannot."""
    work = side.find(case)
    if work is None:
        return None
    found = work()
    many = found if isinstance(found, (list, tuple)) else [found]
    return np.concatenate([np.asarray(getattr(x, "detach", lambda x=x: x)()).ravel() for x in many if x is not None]
                          or [np.empty(0)])


@pytest.mark.parametrize("case", small_cases(), ids=lambda case: f"{case.kernel}-{case.shape}-{case.form}-{case.dtype}")
def test_every_side_computes_the_same(case):
    if case.backward and jit_disabled():
        pytest.skip("without kernels, fused ops are differentiated through their meanings")
    mine = answer_of(OurKernels(), case)
    others = [NumpyKernels()]
    if find_spec("torch"):
        from microtfm.bench.kernel_torch import TorchKernels

        others.append(TorchKernels())
    flop, touched = costs.of_case(case)
    assert flop >= 0 and touched > 0
    assert case.kernel in UPDATES or np.size(mine) > 0
    for other in others:
        found = answer_of(other, case)
        if found is None:
            assert case.kernel in ("erf", "gelu", "gelu_vjp") and isinstance(other, NumpyKernels)
        elif case.kernel == "uniform" or (case.p and not (case.kernel == "relu_dropout_vjp" and other is others[0])):
            assert mine.shape == found.shape and mine.dtype == found.dtype
        elif case.kernel not in UPDATES or case.kernel == "global_norm":
            if case.kernel == "linear_vjp" and case.layers > 1:          # PyTorch's layers are one matrix
                mine, found = np.sort(mine), np.sort(found)
            np.testing.assert_allclose(mine, found, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("kernel", UPDATES[1:])
def test_updates_are_numpys(kernel):
    case = Case(kernel, (40,))
    given, expected = inputs(case), inputs(case)
    from microtfm.bench import kernel_numpy, kernel_ours

    tensors = [[kernel_ours.Tensor(x) for x in many] for many in given]
    kernel_ours._update(kernel, tensors)()
    kernel_numpy._update(kernel, *expected)()
    np.testing.assert_allclose(tensors[0][0].numpy(), expected[0][0], rtol=1e-5, atol=1e-7)


def test_every_kernel_is_measured():
    cases = kernels.cases([SIZES["tiny"]], [])
    measured = {case.kernel for case in cases}
    assert set(MODULES) - BOOKKEEPING - TRIFLES <= measured <= set(OPS) | {*UPDATES, "uniform"}
    assert {case.group for case in cases} == set(kernels.GROUPS)


def test_what_the_project_promises_is_measured():
    cases = kernels.cases([SIZES["tiny"]], [])
    for dtype in kernel_cases.DTYPES:
        products = {(case.shape, case.form) for case in cases if case.group == f"matmul, {dtype}"}
        assert len(products) == 72 and all(case.dtype == dtype for case in cases if case.group == f"matmul, {dtype}")
    batches = {case.shape for case in cases if case.group == "matmul, batches"}
    assert {(256, 16, 32, 16), (512, 20, 20, 64)} <= batches
    for op in ("softmax", "layer_norm", "cross_entropy", "gelu", "dropout"):
        assert {case.kernel for case in cases if case.group == op} == {op, f"{op}_vjp"}
    assert {case.kernel for case in cases if case.group == "attention"} == set(HEADS)
    assert [case.kernel for case in cases if case.group == "clip and adam"] == ["adam"]


def test_what_a_kernel_costs():
    assert costs.of_case(Case("matmul", (2, 3, 4, 5))) == (2 * 2 * 3 * 4 * 5, 4 * 2 * (12 + 20 + 15))
    assert costs.of_case(Case("matmul", (3, 4, 5), dtype="float64")) == (2 * 3 * 4 * 5, 8 * (12 + 20 + 15))
    assert costs.of_case(Case("add", (6, 7))) == (42, 3 * 4 * 42)
    assert costs.of_case(Case("sum", (6, 7), "rows")) == (42, 4 * (42 + 6))
    assert costs.of_case(Case("linear", (6, 7, 5), "relu, dropout")) == (2 * 6 * 7 * 5, 4 * (42 + 35 + 5 + 30))
    assert costs.of_case(Case("linears", (6, 7, 14))) == (2 * 6 * 7 * 14, 4 * (42 + 7 * 14 + 14 + 6 * 14))
    assert costs.of_case(Case("linear_vjp", (6, 7, 21), "3 layers")) == (2 * 6 * 7 * 21, 4 * (42 + 6 * 21 + 8 * 21))
    assert costs.of_case(Case("linears_input_vjp", (6, 7, 14))) == (2 * 6 * 7 * 14, 4 * (6 * 14 + 7 * 14 + 42))
    assert costs.of_case(Case("embed", (50, 7, 2, 3), "dropout")) == (3 * 42, 4 * (42 + 3 * 7 + 42) + 8 * 6)
    assert costs.of_case(Case("embed_vjp", (50, 7, 2, 3))) == (2 * 42, 4 * (42 + 350) + 8 * 6)
    count = SIZES["nano"].parameters()
    assert costs.of_case(Case("adam", (count,), "nano"))[1] == 32 * count


@pytest.mark.parametrize("first", [HEADS[0], *PACKED[::2]])
def test_what_attention_costs(first):
    """Whichever way queries, keys and values lie, the arithmetic is that of two products, and of four."""
    b, h, t, k = 2, 3, 4, 8
    forward, backward = (costs.of_case(Case(kernel, (b, h, t, t, k))) for kernel in (first, f"{first}_vjp"))
    scores, array = b * h * t * t, 4 * b * h * t * k
    assert forward == (scores * (2 * 2 * k + 5), 4 * array)
    assert backward == (scores * (2 * 4 * k + 9), 7 * array)


def test_choosing_kernels():
    assert {case.kernel for case in kernels.cases([MICRO], ["exp", "softmax"])} == {"exp", "softmax", "softmax_vjp"}
    with pytest.raises(UserError, match="--only gelo"):
        kernels.cases([MICRO], ["gelo"])


def test_means_and_the_worst():
    rows = [{"group": "linear", "kernel": "linear", "shape": [i], "form": "", "flop": flop,
             "peers": {"numpy": {"ratio": ratio}}} for i, flop, ratio in ((1, 1e6, 1.0), (2, 1e7, 4.0), (3, 1e8, 5.0))]
    assert kernels.means(rows[:2]) == {"linear": {"numpy": 2.0}}
    assert kernels.worst(rows)["linear"]["numpy"] == {"kernel": "linear", "shape": [2], "form": "", "ratio": 4.0}
    assert kernels.worst(rows[:1]) == {}
