"""The walk back: accumulation, higher orders, what is recorded, what is freed, and that graphs die at once."""
import gc
import sys
import threading
import weakref

import numpy as np
import pytest

import engine
from engine import GraphError, Tensor, grad, hvp, jacobian, no_grad, scope
from engine.check import GradcheckError, gradcheck
from engine.errors import DtypeError


def leaf(value, name=None):
    return Tensor(np.asarray(value, np.float64), requires_grad=True, name=name)


# --- accumulation ---------------------------------------------------------------------------------
def test_fan_out_adds_up():
    x = leaf(3.0)
    y = x * x
    (y + y * x).backward()                                   # x² + x³
    assert x.grad.item() == 2 * 3 + 3 * 9


def test_a_node_waits_for_all_its_cotangents():
    x = leaf(2.0)
    a = x * 3
    b = a * a
    c = a + b                                                # a is used by b and by c
    (b * c).backward()                                       # 9x²(3x + 9x²)
    assert x.grad.item() == 81 * 2**2 + 324 * 2**3           # 27x³ + 81x⁴


def test_one_tensor_twice_in_one_op():
    x = leaf([1.0, 2.0])
    engine.concat([x, x]).sum().backward()
    assert x.grad.tolist() == [2, 2]
    m = leaf([[1.0, 2.0], [3.0, 4.0]])
    gradcheck(lambda t: t @ t, [m], order=2)


def test_two_backward_calls_accumulate():
    x = leaf([1.0, 2.0])
    for _ in range(2):
        (x * x).sum().backward()
    assert x.grad.tolist() == [4, 8]
    x.grad = None
    (x * x).sum().backward()
    assert x.grad.tolist() == [2, 4]


def test_constants_get_no_gradient():
    x, c = leaf(2.0), Tensor(5.0)
    (x * c * 3.0).backward()
    assert x.grad.item() == 15 and c.grad is None


def test_broadcasting_is_undone():
    x, row, one = leaf(np.ones((4, 3))), leaf(np.ones(3)), leaf(1.0)
    (x * row + one).sum().backward()
    assert (x.grad.shape, row.grad.shape, one.grad.shape) == ((4, 3), (3,), ())
    assert row.grad.tolist() == [4, 4, 4] and one.grad.item() == 12


def test_a_cotangent_weighs_the_outputs():
    x = leaf([1.0, 2.0, 3.0])
    (x * x).backward([1.0, 0.0, -1.0])
    assert x.grad.tolist() == [2, 0, -6]


# --- grad -----------------------------------------------------------------------------------------
def test_grad_of_inner_tensors():
    x = leaf(2.0)
    y = x * x
    z = y * y
    gx, gy = grad(z, [x, y])
    assert (gx.item(), gy.item()) == (4 * 8, 2 * 4)
    assert x.grad is None and y.grad is None                 # grad returns, backward leaves


def test_grad_of_the_root_is_its_cotangent():
    y = leaf(2.0) * 3
    assert grad(y, y).item() == 1


def test_unconnected_inputs_have_a_gradient_of_zeros():
    x, other = leaf(2.0), Tensor(np.ones((2, 3), np.float32), requires_grad=True)
    g = grad(x * x, [x, other])[1]
    assert g.shape == (2, 3) and g.dtype == np.float32 and not g.numpy().any()


def test_a_product_over_no_numbers():
    a, b = leaf(np.ones((2, 1, 0))), leaf(np.ones((0, 3)))
    assert [g.shape for g in grad((a @ b).sum(), [a, b])] == [(2, 1, 0), (0, 3)]


def test_mean_of_no_numbers():
    x = leaf(np.ones((0, 3)))
    assert np.isnan(x.mean().item())
    assert grad(x.mean(), x).shape == (0, 3)


def test_retain_grad():
    x = leaf(2.0)
    y = (x * x).retain_grad()
    (y * 3).backward()
    assert y.grad.item() == 3 and x.grad.item() == 12


def test_retain_graph():
    x = leaf(2.0)
    y = x * x
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.item() == 8
    with pytest.raises(GraphError, match="retain_graph=True"):
        y.backward()


def test_integer_paths_carry_no_gradient():
    x = leaf([3.0, 1.0, 2.0])
    assert not x.argmax().requires_grad and not (x > 1).requires_grad
    y = engine.where(x > 1, x, 0.0).sum()
    assert grad(y, x).tolist() == [1, 0, 1]


# --- higher orders --------------------------------------------------------------------------------
def test_derivatives_of_every_order():
    x = leaf(0.7)
    y = x.sin()
    for k in range(1, 6):
        y = grad(y, x, create_graph=True)
        want = [np.sin, np.cos, lambda t: -np.sin(t), lambda t: -np.cos(t)][k % 4](0.7)
        np.testing.assert_allclose(y.item(), want, rtol=1e-14)


def test_double_backward_leaves_gradients_that_can_be_differentiated():
    x = leaf([1.0, 2.0])
    (x ** 3.0).sum().backward(create_graph=True)
    g, x.grad = x.grad, None
    (g * g).sum().backward()                                 # d/dx (3x²)² = 36x³
    np.testing.assert_allclose(x.grad.numpy(), [36, 288], rtol=1e-14)


def test_hvp_is_the_hessian_times_v():
    rng = np.random.default_rng(0)
    a, x, v = rng.standard_normal((4, 4)), rng.standard_normal(4), rng.standard_normal(4)

    def f(t):
        return (t * (Tensor(a) @ t)).sum() + (t ** 4.0).sum() / 12

    hessian = a + a.T + np.diag(x**2)
    np.testing.assert_allclose(hvp(f, Tensor(x), Tensor(v)).numpy(), hessian @ v, rtol=1e-13)
    np.testing.assert_allclose(hvp(lambda t: (t * 3).sum(), Tensor(x), Tensor(v)).numpy(), 0 * v)
    with pytest.raises(engine.ShapeError, match="hvp"):
        hvp(f, Tensor(x), Tensor(v[:2]))


def test_jacobian():
    a = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(jacobian(lambda t: Tensor(a) @ t, Tensor(np.ones(3))).numpy(), a)
    assert jacobian(lambda t: t.reshape(3, 1) * t, Tensor(np.ones(3))).shape == (3, 3, 3)
    assert jacobian(lambda t: t[:0], Tensor(np.ones(3))).shape == (0, 3)
    x = leaf([1.0, 2.0])
    assert grad(jacobian(lambda t: t * t * t, x, create_graph=True).sum(), x).tolist() == [6, 12]


def test_a_composition_is_right_to_third_order():
    rng = np.random.default_rng(1)
    gradcheck(lambda x, w, b: engine.layer_norm((x @ w + b).tanh(), b).softmax(), order=3, elements=3,
              inputs=[rng.uniform(0.5, 1.5, s) for s in ((2, 3), (3, 2), (2,))])


# --- gradcheck itself -----------------------------------------------------------------------------
def test_gradcheck_names_the_input_the_element_and_both_numbers():
    def cut(x, w):
        return x * w[1:].sum() + engine.constant(w[0]) * x

    with pytest.raises(GradcheckError, match=r"input 1 \(w\) at \[0\] \(x = 2\): the rules give 0, complex step"):
        gradcheck(cut, [leaf([1.0, 3.0], "x"), leaf([2.0, 1.0, 1.0], "w")])


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradcheck_at_any_scale(scale, dtype):
    x = (np.array([0.3, -1.2, 2.5]) * scale).astype(dtype)
    gradcheck(lambda t: (t / scale).tanh() * t, [x], order=2)
    gradcheck(lambda t: (t / scale).abs().sum(), [x])        # not holomorphic: differences
    with pytest.raises(GradcheckError):
        gradcheck(lambda t: t * t + 0.01 * t * engine.constant(t), [x])
    with pytest.raises(GradcheckError, match="differences"):
        gradcheck(lambda t: t.abs() + 0.01 * engine.constant(t), [x])


def test_gradcheck_refuses_what_has_no_slope():
    with pytest.raises(DtypeError, match="int64"):
        gradcheck(lambda i: i * 1.0, [np.array([1, 2])])
    with pytest.raises(DtypeError, match="bool"):
        gradcheck(lambda x: x > 0, [np.ones(2)])
    with pytest.raises(GradcheckError, match="different results"):
        gradcheck(lambda x: engine.dropout(x, p=0.5), [np.ones(20)])
    with pytest.raises(GradcheckError, match="not finite"):
        gradcheck(lambda x: x.log(), [np.zeros(2)])


# --- what is recorded -----------------------------------------------------------------------------
def test_no_grad_records_nothing():
    x = leaf(2.0)
    with no_grad():
        y = x * x
    assert not y.requires_grad and y.node.op is None and y.node.inputs == ()

    @no_grad()
    def f(t):
        return t * t
    assert not f(x).requires_grad and (x * x).requires_grad


def test_detach_is_a_copy_without_a_history():
    x = leaf([1.0, 2.0])
    y = (x * x).detach()
    assert not y.requires_grad and y.node.op is None
    y[0] = 9.0
    assert (x * x).tolist() == [1, 4]
    (x * (x * x).detach()).sum().backward()
    assert x.grad.tolist() == [1, 4]


def test_scope_phase_and_origin_are_noted():
    x = leaf([1.0, 2.0])
    with scope("encoder"), scope("layer 1"):
        y = x.tanh()
    assert y.node.scope == ("encoder", "layer 1") and y.node.phase == "forward" and y.node.of is None
    g = grad(y.sum(), x, create_graph=True)
    made = engine.autograd.order([g.node])
    backward = [n for n in made if n.phase == "backward" and n.op is not None]
    assert backward and all(n.of is not None and n.of.phase == "forward" for n in backward)
    assert any(n.of is y.node and n.scope[:2] == y.node.scope for n in backward)


def test_freeing_drops_arrays_and_keeps_the_record():
    x = leaf([1.0, 2.0])
    y = (x * x).sum()
    y.backward()
    assert [n.op.name for n in engine.autograd.order([y.node]) if n.op] == ["mul", "sum"]
    assert all(not n.saved for n in engine.autograd.order([y.node]))


def test_only_what_the_rules_read_is_kept():
    x = leaf(np.ones(3))
    y = x * 2.0
    inner = weakref.ref(y)
    z = y.exp()                                              # exp keeps its output alone
    del y
    assert inner() is None and set(z.node.saved) == {engine.record.OUT}


# --- depth and lifetime ---------------------------------------------------------------------------
DEPTH = 20_000


def _chain(x):
    for _ in range(DEPTH):
        x = x + 1.0
    return x


def test_deep_chains_differentiate_and_die():
    x = leaf(1.0)
    y = _chain(x)
    y.backward()
    assert x.grad.item() == 1 and sys.getrecursionlimit() < DEPTH
    del y
    y = _chain(x)                                            # never walked back
    del y
    g = grad(_chain(x * x), x, create_graph=True)
    assert grad(g, x).item() == 2


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def _step(case):
    x, w = Tensor(np.ones((2, 3)), requires_grad=True), Tensor(np.ones((3, 3)), requires_grad=True)
    loss = engine.layer_norm(engine.softmax(x @ w).tanh() + x).sum()
    if case == "backward":
        loss.backward()
    elif case == "backward twice":
        loss.backward(retain_graph=True)
        loss.backward()
    elif case == "create_graph":
        loss.backward(create_graph=True)
        (x.grad * x.grad).sum().backward()
    elif case == "grad":
        first = grad(loss, [x, w], create_graph=True)
        grad((first[0] * first[0]).sum(), [x, w])
    elif case == "retain_grad":
        y = (x @ w).retain_grad()
        y.sum().backward()
    elif case == "error":
        with pytest.raises(GraphError):
            (x @ w).backward()
    return [weakref.ref(t.node) for t in (x, w, loss)] + [weakref.ref(x), weakref.ref(loss)]


@pytest.mark.parametrize("case", ["forward", "backward", "backward twice", "create_graph", "grad", "retain_grad",
                                  "error"])
def test_a_dropped_graph_is_freed_at_once(case, no_collector):
    assert [r() for r in _step(case)] == [None] * 5
    before = sum(type(o) is engine.core.Node for o in gc.get_objects())
    for _ in range(5):
        _step(case)
    assert sum(type(o) is engine.core.Node for o in gc.get_objects()) == before


# --- threads --------------------------------------------------------------------------------------
def test_threads_do_not_mix_state():
    """Each thread keeps its own scope, phase and recording, whatever the others do."""
    meet, failures = threading.Barrier(4), []

    def work(i):
        try:
            x = leaf(float(i + 1))
            with scope(f"thread {i}"):
                meet.wait()
                if i % 2:
                    with no_grad():
                        meet.wait()
                        assert not (x * x).requires_grad
                else:
                    meet.wait()
                    y = x * x
                    assert y.requires_grad and y.node.scope == (f"thread {i}",)
                    assert grad(y, x).item() == 2 * (i + 1)
        except Exception as e:
            failures.append(e)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures
