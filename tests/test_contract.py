"""The contract: errors that teach, ids that cannot reach foreign memory, dtypes, conventions, seeds."""
import re

import numpy as np
import pytest

import engine
from engine import DtypeError, GraphError, IndexRangeError, ShapeError, Tensor, grad

F32, F64, I64 = np.float32, np.float64, np.int64


# --- errors that teach ----------------------------------------------------------------------------
def _says(*words):
    return "(?s)" + "".join(f"(?=.*{re.escape(w)})" for w in words)


def test_a_shape_error_names_the_op_the_tensors_and_both_shapes():
    a, b = Tensor(np.ones((2, 3)), name="queries"), Tensor(np.ones((4, 3)), name="keys")
    with pytest.raises(ShapeError, match=_says("matmul", "queries (2, 3)", "keys (4, 3)", "keys.mT")):
        a @ b
    with pytest.raises(ShapeError, match=_says("add", "(2, 3)", "(4, 3)", "broadcast")):
        a + b
    with engine.scope("decoder"), pytest.raises(ShapeError, match=_says("add in decoder")):
        a + b


@pytest.mark.parametrize("call", [
    lambda x: x.reshape(5), lambda x: x.reshape(-1, -1), lambda x: x.transpose(0, 0), lambda x: x.swapaxes(0, 2),
    lambda x: x.sum(axis=2), lambda x: x.sum(axis=(0, 0)), lambda x: x.squeeze(0), lambda x: x.broadcast_to(3, 3),
    lambda x: engine.concat([x, x.T]), lambda x: engine.concat([]), lambda x: engine.split(x, 4), lambda x: x.pad(-1),
    lambda x: x[:0].max(axis=0), lambda x: x[:0].argmax(), lambda x: engine.layer_norm(x, x), lambda x: x.item(),
    lambda x: engine.softmax(x, np.ones((5, 2, 3), bool)), lambda x: x.cumsum(axis=3), lambda x: x.expand_dims(7),
    lambda x: engine.cross_entropy(x, np.zeros((3,), I64)), lambda x: engine.scaled_dot_product_attention(x, x.T, x),
    lambda x: engine.dropout(x, p=1.5), lambda x: engine.cross_entropy(x, np.zeros(2, I64), reduction="all"),
    lambda x: engine.dropout(x, Tensor(np.arange(3)), p=0.5),
    lambda x: engine.OPS["scaled_dot_product_attention"](x, x, x, p=0.5),
], ids=range(25))
def test_shapes_and_parameters_that_do_not_fit(call):
    with pytest.raises(ShapeError) as e:
        call(Tensor(np.ones((2, 3))))
    assert len(str(e.value)) > 20


@pytest.mark.parametrize("call", [lambda x: engine.softmax(x, axes=1), lambda x: engine.sum(x, 0, True, 3),
                                  lambda x: engine.matmul(x), lambda x: engine.expand_dims(x),
                                  lambda x: engine.sum(x, 0, axis=0)], ids=range(5))
def test_wrong_arguments(call):
    with pytest.raises(TypeError, match=r"axes|takes|needs|twice"):
        call(Tensor(np.ones((2, 3))))


def test_values_that_are_no_numbers():
    for bad in ("text", ["a"], None, object()):
        with pytest.raises((DtypeError, TypeError)):
            Tensor(bad)
    with pytest.raises(DtypeError, match="add"):
        Tensor(1.0) + "text"
    with pytest.raises(ValueError, match="neither true nor false"):
        bool(Tensor([1.0, 2.0]))
    with pytest.raises(TypeError, match="0-d"):
        len(Tensor(1.0))
    with pytest.raises(TypeError, match="index"):
        [1, 2][Tensor(1.0)]


def test_an_integer_has_no_gradient():
    with pytest.raises(DtypeError, match=_says("ids", "int64", "astype")):
        Tensor([1, 2], requires_grad=True, name="ids")
    with pytest.raises(DtypeError, match="bool"):
        Tensor(np.ones(2, bool)).requires_grad = True
    x = Tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(DtypeError, match="int64"):
        x.argmax().backward()


def test_backward_needs_a_cotangent_for_more_than_one_number():
    x = Tensor(np.ones((2, 3)), requires_grad=True)
    with pytest.raises(GraphError, match=_says("(2, 3)", "grad=")):
        (x * x).backward()
    with pytest.raises(ShapeError, match=_says("(3,)", "(2, 3)")):
        (x * x).backward(np.ones(3))
    (x * x)[:1, :1].backward()


def test_backward_through_a_freed_graph():
    x = Tensor(np.ones(3), requires_grad=True)
    y = (x * x).sum()
    y.backward()
    with pytest.raises(GraphError, match=_says("the output of sum", "retain_graph=True")):
        y.backward()
    with pytest.raises(GraphError, match="freed"):
        (y * 2).backward()


def test_backward_of_what_needs_no_gradient():
    with pytest.raises(GraphError, match="requires_grad=True"):
        Tensor(1.0).backward()
    x = Tensor([1.0], requires_grad=True)
    with pytest.raises(GraphError, match="y does not require"):
        grad(x.sum(), Tensor([1.0], name="y"))
    with pytest.raises(GraphError, match="only a leaf"):
        (x * 2).requires_grad = False
    with pytest.raises(GraphError, match="retain"):
        Tensor(1.0).retain_grad()


# --- a value changed in place after use -----------------------------------------------------------
CHANGES = {
    "item": lambda x, held: x.__setitem__(0, 9.0),
    "slice": lambda x, held: x.__setitem__(slice(0, 1), 9.0),
    "everything": lambda x, held: x.__setitem__(..., np.full(3, 9.0)),
    "mask": lambda x, held: x.__setitem__(Tensor(np.array([True, False, False])), 9.0),
    "data attribute": lambda x, held: setattr(x, "data", np.full(3, 9.0)),
    "data, in place": lambda x, held: x.data.__iadd__(1),
    "data, one element": lambda x, held: x.data.__setitem__(0, 9.0),
    "data, by a ufunc": lambda x, held: np.multiply(x.data, 3, out=x.data),
    "data, sorted": lambda x, held: x.data[::-1].sort(),
    "array taken before": lambda x, held: held.__setitem__(0, 9.0),
    "view of the array": lambda x, held: held[1:].__setitem__(0, 9.0),
    "view of the tensor": lambda x, held: x[1:].__setitem__(0, 9.0),
    "reshaped tensor": lambda x, held: x.reshape(3, 1).data.__setitem__((0, 0), 9.0),
    "data, through a buffer": lambda x, held: memoryview(x.data).__setitem__(0, 9.0),
    "a row of the data, kept": lambda x, held: np.asarray(x.data[1:]).T.fill(9.0),
    "a constant of it": lambda x, held: engine.constant(x).__setitem__(0, 9.0),
    "optimiser": lambda x, held: engine.update("sgd", [x], [Tensor(np.ones(3))], [Tensor(np.zeros(3))], lr=0.1,
                                               momentum=0.0, weight_decay=[0.0]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("held", [False, True], ids=["", "held"])
def test_a_leaf_changed_after_use_is_found_out(change, held):
    x = Tensor(np.array([1.0, 2.0, 3.0]), requires_grad=True, name="weight")
    array = x.data if held or change in (CHANGES["array taken before"], CHANGES["view of the array"]) else None
    y = (x * x).sum()
    change(x, array)
    with pytest.raises(GraphError, match=_says("weight", "changed in place", "mul")):
        y.backward()
    assert x.grad is None


def test_a_gradient_belongs_to_its_tensor_alone():
    a, b = Tensor([1.0, 2.0], requires_grad=True), Tensor([3.0, 4.0], requires_grad=True)
    seed = Tensor([1.0, 1.0])
    (a + b).backward(seed)
    a.grad[0] = 5.0
    assert b.grad.tolist() == seed.tolist() == [1, 1]
    a.grad = None
    a.sum().backward()
    a.grad[0] = 7.0                                          # clipping by hand, say
    assert a.grad.tolist() == [7, 1]


def test_data_that_nobody_holds_any_more_costs_nothing():
    x = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    row = x.data[1:]
    assert (x * x).node.saved[0].digest is not None          # it could be changed through the row
    assert x.data.base is not None and np.shares_memory(x.data, row)
    del row
    y = x * x
    assert y.node.saved[0].digest is None
    x.data[0] = 9.0
    with pytest.raises(GraphError, match="changed in place"):
        y.sum().backward()


def test_an_inner_value_changed_after_use_is_found_out():
    x = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    y = x.exp()
    z = (y * y).sum()
    y[0] = 5.0
    with pytest.raises(GraphError, match="changed in place"):
        z.backward()


def test_changes_that_no_rule_minds_are_allowed():
    x = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    y = (x + 1.0).sum()
    x[0] = 9.0                                               # addition reads no values back
    y.backward()
    assert x.grad.tolist() == [1, 1]
    x.grad = None
    x[0] = 4.0                                               # before use is fine
    (x * x).sum().backward()
    assert x.grad.tolist() == [8, 4]


def test_tensors_share_no_memory_with_the_outside():
    a = np.array([1.0, 2.0])
    x = Tensor(a, requires_grad=True)
    y = (x * x).sum()
    a[0] = 9.0
    x.numpy()[0] = 9.0
    np.asarray(x)[0] = 9.0
    x.detach()[0] = 9.0
    y.backward()
    assert x.tolist() == [1, 2] and x.grad.tolist() == [2, 4]


# --- ids ------------------------------------------------------------------------------------------
V = 5
TABLE = np.ones((V, 2))
USES_OF_IDS = {
    "embedding": lambda ids: engine.embedding(TABLE, ids),
    "take": lambda ids: engine.take(TABLE, ids, axis=0),
    "cross_entropy": lambda ids: engine.cross_entropy(np.ones((len(ids), V)), ids),
    "scatter_add": lambda ids: engine.scatter_add(np.ones((len(ids), 2)), ids, axis=0, size=V),
    "one_hot": lambda ids: engine.one_hot(ids, size=V),
    "getitem": lambda ids: Tensor(TABLE)[ids],
    "put": lambda ids: engine.put(np.ones((len(ids), 2)), index=ids, shape=(V, 2)),
}


@pytest.mark.parametrize("use", USES_OF_IDS.values(), ids=USES_OF_IDS)
@pytest.mark.parametrize("bad", [-V - 1, -1, V, 2**31, 2**40, -2**40, 2**63 - 1])
def test_bad_ids_are_refused(use, bad):
    if bad == -1 and use in (USES_OF_IDS["take"], USES_OF_IDS["getitem"], USES_OF_IDS["put"]):
        assert use(np.array([0, -1])).shape == (2, 2) or use(np.array([0, -1])).shape == (V, 2)      # NumPy counts back
        return
    with pytest.raises(IndexRangeError, match=str(bad)):
        use(np.array([0, bad, 1]))
    with pytest.raises(IndexRangeError):
        use(np.array([bad]))


@pytest.mark.parametrize("name", ["embedding", "take", "cross_entropy", "scatter_add", "one_hot"])
def test_ids_must_be_integers(name):
    for ids in (np.array([0.0, 1.0]), np.array([True, False])):
        with pytest.raises(DtypeError, match="integers"):
            USES_OF_IDS[name](ids)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.uint8, np.uint64])
@pytest.mark.parametrize("use", USES_OF_IDS.values(), ids=USES_OF_IDS)
def test_ids_of_any_integer_dtype(use, dtype):
    np.testing.assert_allclose(use(np.array([4, 0], dtype)).numpy(), use(np.array([4, 0])).numpy(), rtol=1e-14)


ROWS, PLACES = np.arange(512.0).reshape(256, 2), [0, 3, 100, 3]
USES_OF_MANY = {
    "embedding": lambda ids, x: engine.embedding(x, ids),
    "take": lambda ids, x: engine.take(x, ids, axis=0),
    "take of all": lambda ids, x: engine.take(x, ids),
    "gather": lambda ids, x: engine.gather(x, ids[:, None], axis=0),
    "take_along_axis": lambda ids, x: engine.take_along_axis(x, ids[:, None], axis=0),
    "add_along_axis": lambda ids, x: engine.add_along_axis(x[:4], ids[:, None], axis=0, size=256),
    "scatter": lambda ids, x: engine.scatter(x, ids[:, None], 2 * x[:4, :1], axis=0),
    "index_add": lambda ids, x: engine.index_add(x, ids, 2 * x[:4], axis=0),
    "is_last": lambda ids, x: engine.where(engine.is_last(ids, axis=0, size=256), x[:4, 0], 0.0),
}


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint64])
@pytest.mark.parametrize("use", USES_OF_MANY.values(), ids=USES_OF_MANY)
def test_ids_need_not_hold_how_many_rows_there_are(use, dtype):
    """256 does not fit into the dtype of these ids, and each of them does."""
    found = []
    for ids in (np.array(PLACES, dtype), np.array(PLACES)):
        x = Tensor(ROWS, requires_grad=True)
        y = use(Tensor(ids), x)
        found.append([y.tolist(), grad(engine.sum(y * y), x).tolist()])
    assert found[0] == found[1]


def test_narrow_ids_count_from_the_end():
    x = Tensor(ROWS, requires_grad=True)
    for use in (USES_OF_MANY["take"], USES_OF_MANY["take_along_axis"], USES_OF_MANY["scatter"]):
        ours, theirs = (grad(engine.sum(use(Tensor(np.array([-1, -100, 3, 0], d)), x) ** 2), x) for d in (np.int8, I64))
        assert ours.tolist() == theirs.tolist()


def test_the_ignored_id_needs_no_row():
    logits, ids = Tensor(np.zeros((3, V)), requires_grad=True), np.array([1, -100, -100])
    loss = engine.cross_entropy(logits, ids)
    loss.backward()
    np.testing.assert_allclose(loss.item(), np.log(V))
    assert not logits.grad.numpy()[1:].any()
    assert engine.cross_entropy(logits, np.full(3, -100)).item() == 0


# --- dtypes ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(("made", "dtype"), [
    (lambda: Tensor([1.0, 2.0]), F32), (lambda: Tensor(1.5), F32), (lambda: Tensor([1, 2]), I64),
    (lambda: Tensor(True), bool),
    (lambda: Tensor(np.ones(2)), F64), (lambda: Tensor(np.float64(1)), F64), (lambda: Tensor([np.float64(1)]), F64),
    (lambda: Tensor([1, 2], dtype="float32"), F32), (lambda: Tensor(np.ones(2, np.int32)), np.int32),
    (lambda: Tensor([1.0]) + 1, F32), (lambda: Tensor([1.0]) * np.pi, F32), (lambda: 2 / Tensor(np.ones(2)), F64),
    (lambda: Tensor([1.0]) + True, F32), (lambda: Tensor([1, 2]) + 1, I64), (lambda: Tensor([1, 2]) + 1.5, F32),
    (lambda: Tensor([1.0]) + np.ones(1), F64), (lambda: Tensor([1.0]) + Tensor([1]), F32),
    (lambda: Tensor(np.ones(1)) + Tensor([1]), F64), (lambda: Tensor([1]) / Tensor([2]), F32),
    (lambda: Tensor([1]).exp(), F32),
    (lambda: Tensor(np.ones(1, np.int8)) + Tensor(np.ones(1, np.int32)), np.int32), (lambda: Tensor([1.0]) > 0, bool),
    (lambda: Tensor([True]).sum(), I64), (lambda: Tensor([1, 2]).sum(), I64), (lambda: Tensor([1, 2]).mean(), F32),
    (lambda: Tensor([1.0]).astype("float64"), F64), (lambda: engine.one_hot(Tensor([1]), size=2), F32),
    (lambda: Tensor([1.0]).argmax(), I64), (lambda: engine.where(Tensor([True]), 1.0, Tensor([2.0])), F32),
    (lambda: engine.where(Tensor([True]), 1.0, Tensor(np.ones(1))), F64), (lambda: engine.zeros((2,)), F32),
    (lambda: engine.softmax(Tensor([1, 2])), F32), (lambda: Tensor([1.0]) ** 2, F32),
    (lambda: 2 ** Tensor([1, 2]), I64),
    (lambda: Tensor([1, 2]) @ Tensor([1, 2]), I64), (lambda: Tensor([1.0, 2.0]) @ np.ones(2), F64),
], ids=range(36))
def test_dtypes(made, dtype):
    assert made().dtype == dtype and made().numpy().dtype == dtype


def test_gradients_keep_their_inputs_dtype():
    x, w = Tensor(np.ones(2, F32), requires_grad=True), Tensor(np.ones(2, F64), requires_grad=True)
    y = (x * w).sum()
    y.backward()
    assert (y.dtype, x.grad.dtype, w.grad.dtype) == (F64, F32, F64)
    with pytest.raises(DtypeError, match="300 does not fit into int8"):
        Tensor(np.ones(2, np.int8)) + 300
    with pytest.raises(DtypeError, match="negative power"):
        Tensor([2]) ** Tensor([-1])


# --- conventions -----------------------------------------------------------------------------------
def test_ties_share_the_gradient():
    x = Tensor([1.0, 3.0, 3.0], requires_grad=True)
    assert grad(x.max(), x).tolist() == [0, 0.5, 0.5]
    assert grad(engine.maximum(x, x * 1.0).sum(), x).tolist() == [1, 1, 1]
    assert grad(x.relu().sum() + (x - 3).relu().sum(), x).tolist() == [1, 1, 1]


def test_a_fully_masked_row_gives_zeros():
    x = Tensor(np.ones((2, 3)), requires_grad=True)
    y = engine.softmax(x, np.array([[True, True, False], [False] * 3]))
    assert y.tolist() == [[0.5, 0.5, 0], [0, 0, 0]]
    y.sum().backward()
    assert np.isfinite(x.grad.numpy()).all()
    q = Tensor(np.ones((2, 4)), requires_grad=True)
    z = engine.scaled_dot_product_attention(q, q, q, np.zeros((2, 2), bool))
    z.sum().backward()
    assert not z.numpy().any() and not q.grad.numpy().any()


# --- seeds ----------------------------------------------------------------------------------------
def _draws():
    return np.concatenate([engine.random.uniform((5,)).numpy(), engine.random.normal((5,)).numpy(),
                           engine.dropout(Tensor(np.ones(40, F32)), p=0.3).numpy()])


def test_the_same_seed_gives_the_same_bits():
    engine.seed(7)
    first, state = _draws(), engine.random.get_state()
    second = _draws()
    engine.seed(7)
    assert _draws().tobytes() == first.tobytes()
    engine.random.set_state(state)
    assert _draws().tobytes() == second.tobytes()
    engine.seed(8)
    assert _draws().tobytes() != first.tobytes() != second.tobytes()


@pytest.mark.parametrize("shape", [(), (1,), (5, 7), (4099,), (0, 3)])
def test_uniform_numbers_are_those_of_their_definition(shape):
    key = Tensor(np.int64(-2**62 + 12345))
    found = engine.random.uniform(shape, key=key).numpy()
    np.testing.assert_array_equal(found, engine.random.uniform_array(key.numpy(), shape))


def test_random_numbers_are_where_they_should_be():
    engine.seed(0)
    u, z = engine.random.uniform((100_000,), -1, 3).numpy(), engine.random.normal((100_000,), 2, 0.5).numpy()
    assert u.min() >= -1 and u.max() < 3 and abs(u.mean() - 1) < 0.02
    assert abs(z.mean() - 2) < 0.01 and abs(z.std() - 0.5) < 0.01
    kept = engine.dropout(Tensor(np.ones(100_000)), p=0.25).numpy()
    assert abs((kept == 0).mean() - 0.25) < 0.01 and set(np.unique(kept)) == {0, 1 / 0.75}


def test_dropout_is_decided_by_its_key_and_the_position_alone():
    key = Tensor(np.asarray(123))
    long, short = (engine.dropout(Tensor(np.ones(n)), key, p=0.5).numpy() for n in (50, 20))
    np.testing.assert_array_equal(long[:20], short)
    np.testing.assert_array_equal(engine.dropout(Tensor(np.ones((5, 10))), key, p=0.5).numpy().ravel(), long)
    x = Tensor(np.ones(50), requires_grad=True)
    np.testing.assert_array_equal(grad(engine.dropout(x, key, p=0.5).sum(), x).numpy(), long)


def test_attention_draws_a_key_of_its_own_where_none_is_given():
    q, k, v = (Tensor(np.random.default_rng(i).standard_normal((2, 5, 4)), requires_grad=True) for i in range(3))
    engine.seed(3)
    first = engine.scaled_dot_product_attention(q, k, v, p=0.5).numpy()
    assert (engine.scaled_dot_product_attention(q, k, v, p=0.5).numpy() != first).any()
    engine.seed(3)
    key = engine.random.next_key()
    np.testing.assert_array_equal(engine.scaled_dot_product_attention(q, k, v, key=key, p=0.5).numpy(), first)
