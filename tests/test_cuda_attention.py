"""The CUDA kernels of attention against their ops' meanings: tails, masks, causal, dropout, packed projections."""
import numpy as np
import pytest
from simulated import KEY, call, check, close, meaning, numbers, on_card

import engine
from engine import Tensor
from engine.kernels import cuda

NAME = "scaled_dot_product_attention"


def inputs(heads, queries, keys, depth, values):
    """g, q, k and v."""
    shapes = (queries, values), (queries, depth), (keys, depth), (keys, values)
    return [numbers(*heads, *shape, seed=i) for i, shape in enumerate(shapes)]


def both_passes(g, q, k, v, mask=None, **params):
    params = {"causal": False, "scale": 0.3, "p": 0.0, **params}
    out, kept = call(NAME, q, k, v, mask, KEY, **params)
    close(out, meaning(NAME, q, k, v, mask, KEY, **params), k.shape[-2])
    packed = cuda.kernel(f"{NAME}_vjp")(*map(on_card, (g, q, k, v, mask, KEY)), **params, weights=kept)
    close(packed, meaning(f"{NAME}_vjp", g, q, k, v, mask, KEY, **params), 4 * k.shape[-2])


@pytest.mark.parametrize("size", [((1, 1), 1, 1, 1, 1), ((2, 2), 5, 7, 8, 8), ((3,), 9, 3, 5, 6)])
def test_attention_of_one_tile(size):
    g, q, k, v = inputs(*size)
    both_passes(g, q, k, v)
    both_passes(g, q, k, v, causal=True, p=0.4)
    seen = np.random.default_rng(0).random((q.shape[-2], k.shape[-2])) < 0.5
    seen[0] = False                                      # a query without keys gives zeros
    both_passes(g, q, k, v, seen)
    both_passes(g, q, k, v, np.broadcast_to(seen[-1:], (*q.shape[:-2], *seen.shape)), causal=True)


def test_attention_of_several_tiles():
    g, q, k, v = inputs((1, 1), 35, 40, 4, 4)
    both_passes(g, q, k, v, np.arange(40)[None, :] < 37, causal=True, p=0.4)


@pytest.mark.parametrize("depth, values", [(40, 36), (100, 70), (61, 64), (64, 63), (127, 128), (128, 125)])
def test_attention_of_wide_heads(depth, values):
    both_passes(*inputs((1,), 3, 4, depth, values))
    both_passes(*inputs((1,), 35, 40, depth, values), np.arange(40) < 38, causal=True, p=0.3)
    both_passes(*inputs((1,), 1, 70, depth, values), np.arange(70) != 3)


@pytest.mark.parametrize("depth", [30, 61, 64, 125])
@pytest.mark.parametrize("queries, keys", [(1, 70), (5, 9), (35, 40)])
def test_what_wide_heads_do_not_see_changes_no_bit(queries, keys, depth):
    _, q, k, v = inputs((1,), queries, keys, depth, depth)
    params, seen = {"causal": False, "scale": 0.3, "p": 0.0}, np.arange(keys) != 3
    before = call(NAME, q, k, v, seen, None, **params)[0].get()
    k[:, 3], v[:, 3, ::2] = np.inf, np.nan
    np.testing.assert_array_equal(call(NAME, q, k, v, seen, None, **params)[0].get(), before)


def test_attention_does_not_serve_heads_that_are_too_wide():
    _, q, k, v = inputs((1,), 2, 2, 129, 4)
    assert cuda.kernel(NAME)(on_card(q), on_card(k), on_card(v), scale=1.0) is NotImplemented


@pytest.mark.parametrize("p", [0.0, 0.4])
def test_attention_on_packed_projections(p):
    g, q, kv, qkv = numbers(2, 5, 24), numbers(2, 5, 24, seed=1), numbers(2, 7, 48), numbers(2, 5, 72)
    params = {"heads": 3, "causal": True, "scale": 0.3, "p": p}
    check("self_attention", qkv, None, KEY, **params, terms=5)
    check("self_attention_vjp", g, qkv, np.arange(5) < 4, KEY, **params, terms=20)
    seen = np.random.default_rng(0).random((2, 1, 1, 7)) < 0.7
    params["causal"] = False
    check("cross_attention", q, kv, seen, KEY, **params, terms=7)
    check("cross_attention_vjp", g, q, kv, seen, KEY, **params, terms=28)


def test_attention_bits_do_not_change_with_padding_behind():
    """A sentence alone, and among longer ones: keys behind its end are masked and change no bit."""
    _, q, k, v = inputs((1, 1), 5, 40, 4, 4)
    alone = call(NAME, q, k[:, :, :6], v[:, :, :6], None, None, causal=False, scale=0.5, p=0.0)[0].get()
    padded = call(NAME, q, k, v, np.arange(40)[None, :] < 6, None, causal=False, scale=0.5, p=0.0)[0].get()
    np.testing.assert_array_equal(padded, alone)


@pytest.mark.parametrize("depth", [1, 8, 32, 36, 64, 128])
def test_attention_of_every_width(depth):
    """Four features at a time and one by one; a row of keys begins anywhere in four random numbers."""
    both_passes(*inputs((2, 2), 18, 19, depth, depth), np.arange(19) < 17, causal=True, p=0.3)


@pytest.mark.parametrize("queries", [1, 4, 31, 32, 33, 65])
@pytest.mark.parametrize("keys", [1, 5, 30, 31, 32, 33])
def test_attention_around_one_tile(queries, keys):
    """As many keys, or queries, as the kernels of short sequences take, and one more."""
    g, q, k, v = inputs((1, 2), queries, keys, 8, 4)
    both_passes(g, q, k, v, p=0.3)
    seen = np.random.default_rng(keys).random((2, queries, keys)) < 0.6
    both_passes(g, q, k, v, seen, causal=True)


def test_attention_of_short_sequences_passes_on_what_is_not_finite():
    g, q, k, v = inputs((1, 1), 5, 6, 8, 8)
    v[..., 2, 3], v[..., 4, 5], g[..., 1, 2] = np.nan, np.inf, np.nan
    both_passes(g, q, k, v)
    q[..., 3, 0] = np.nan
    both_passes(g, q, k, v)


@pytest.mark.parametrize("words", [1, 6, 13, 31, 32])
def test_attention_bits_are_the_same_by_either_kernel(words):
    """Of a sentence alone, of its first queries, and padded until another kernel runs."""
    _, q, k, v = inputs((2, 2), 40, 45, 36, 36)
    params = {"causal": False, "scale": 0.3, "p": 0.0}
    padded = call(NAME, q, k, v, np.arange(45) < words, None, **params)[0].get()
    for queries in (1, 7, 40):
        alone = call(NAME, q[:, :, :queries], k[:, :, :words], v[:, :, :words], None, None, **params)[0].get()
        np.testing.assert_array_equal(alone, padded[:, :, :queries])


def gradients(g, q, k, v, mask=None, **params):
    """dq, dk and dv, from what the forward pass has kept."""
    params = {"scale": 0.3, **params}
    _, kept = call(NAME, q, k, v, mask, KEY, **params)
    packed = call(f"{NAME}_vjp", g, q, k, v, mask, KEY, **params, weights=kept).get()
    parts = np.split(packed, [q.size, q.size + k.size])
    return [part.reshape(x.shape) for part, x in zip(parts, (q, k, v), strict=True)]


@pytest.mark.parametrize("words, depth, values", [(1, 8, 8), (20, 4, 4), (20, 5, 7), (31, 36, 32), (32, 100, 128)])
@pytest.mark.parametrize("causal", [False, True])
def test_gradients_have_the_same_bits_by_either_kernel(words, depth, values, causal):
    """A sentence alone, and padded until another kernel runs."""
    g, q, k, v = inputs((2, 2), 40, 40, depth, values)
    g[:, :, words:] = 0
    padded = gradients(g, q, k, v, np.arange(40) < words, causal=causal)
    alone = gradients(*(x[:, :, :words] for x in (g, q, k, v)), causal=causal)
    for got, expected in zip(padded, alone, strict=True):
        np.testing.assert_array_equal(got[:, :, :words], expected)
        assert not got[:, :, words:].any()


@pytest.mark.parametrize("keys", [3, 32, 40])
def test_gradients_of_queries_and_keys_are_zero_where_all_values_are_equal(keys):
    """However large the scores are; and those of the values are the weights."""
    g, q, k, v = (np.full((1, n, 1), x, np.float32) for n, x in ((1, 1), (1, 1000), (keys, 1), (keys, 10)))
    dq, dk, dv = gradients(g, q, k, v, scale=1.0)
    assert not dq.any() and not dk.any()
    np.testing.assert_allclose(dv, 1 / keys, rtol=2e-7)


@pytest.mark.parametrize("keys", [3, 32, 40, 70])
@pytest.mark.parametrize("p", [0.0, 0.4])
def test_weights_are_as_exact_in_gradients_of_large_scores(keys, p):
    """Of scores that are exact: whole numbers around 100,000."""
    rng = np.random.default_rng(keys)
    q, k = np.float32([[[1.0]]]), (100_000 - rng.integers(0, 4, (1, keys, 1))).astype(np.float32)
    g, v = np.float32([[[1.0]]]), rng.standard_normal((1, keys, 1)).astype(np.float32)
    params = {"scale": 1.0, "p": p}
    exact = np.split(meaning(f"{NAME}_vjp", g, q, k, v, None, KEY, **params)[1:], 2)
    for got, right in zip(gradients(g, q, k, v, **params)[1:], exact, strict=True):
        np.testing.assert_allclose(got.reshape(-1), right.astype(np.float32), rtol=0, atol=1e-6 * np.abs(right).max())


@pytest.mark.parametrize("keys, depth, values", [(33, 8, 8), (64, 5, 7), (130, 36, 32), (200, 64, 64), (40, 100, 128)])
def test_attention_of_one_query(keys, depth, values):
    """With the bits that it has among others, be they tiles of keys or none that it sees."""
    g, q, k, v = inputs((2, 2), 3, keys, depth, values)
    seen = np.random.default_rng(keys).random((2, 1, 1, keys)) < 0.5
    seen[1] = False
    for mask in (None, seen, np.arange(keys) < 9, np.arange(keys) >= 36):
        params = {"causal": False, "scale": 0.4, "p": 0.0}
        out, kept = call(NAME, q[:, :, :1], k, v, mask, None, **params)
        every, all_kept = call(NAME, q, k, v, mask, None, **params)
        np.testing.assert_array_equal(out.get(), every.get()[:, :, :1])
        rows = all_kept.get()[every.size :].reshape(4, 3, 2)
        np.testing.assert_array_equal(kept.get()[out.size :].reshape(4, 2), rows[:, 0])
    both_passes(g[:, :, :1], q[:, :, :1], k, v, seen, causal=True)
    first = call(NAME, q[:, :, :1], k[:, :, :9], v[:, :, :9], None, None, **params)[0].get()
    padded = call(NAME, q[:, :, :1], k, v, np.arange(keys) < 9, None, **params)[0].get()
    np.testing.assert_array_equal(padded, first)


def test_attention_of_nothing():
    for size in (((0, 2), 3, 4, 2, 2), ((2,), 0, 3, 2, 2), ((2,), 3, 0, 2, 2), ((2, 3, 1), 4, 0, 2, 5)):
        both_passes(*inputs(*size))


# --- what lies behind a mask ----------------------------------------------------------------------
def _passes(device, g, q, k, v, mask, causal):
    g, q, k, v = (Tensor(x, requires_grad=True, device=device) for x in (g, q, k, v))
    y = engine.scaled_dot_product_attention(q, k, v, None if mask is None else Tensor(mask, device=device),
                                            causal=causal)
    return [x.numpy() for x in (y, *engine.grad(y, [q, k, v], g))]


@pytest.mark.parametrize("queries, keys", [(2, 3), (5, 5), (40, 40), (1, 70), (33, 65), (1, 33)])
@pytest.mark.parametrize("masking", ["none", "mask", "causal", "mask and causal"])
@pytest.mark.parametrize("broken", ["k", "v", "kv", "q", "g", "infinite"])
def test_what_nobody_sees_does_not_leak(queries, keys, masking, broken):
    """NaN and infinity spread as far as on the processor, where masked terms are left out."""
    g, q, k, v = inputs((1, 2), queries, keys, 4, 4)
    mask = None
    if "mask" in masking:
        mask = np.random.default_rng(0).random((queries, keys)) < 0.7
        mask[:, -1] = False
    for name, x, at in (("k", k, (..., -1, slice(None))), ("v", v, (..., -1, 1)), ("q", q, (..., 0, slice(None))),
                        ("g", g, (..., 0, 2))):
        if name in broken and broken != "infinite":
            x[at] = np.nan
    if broken == "infinite":
        k[..., -1, :], v[..., -1, :] = -np.inf, np.inf
    found, expected = (_passes(device, g, q, k, v, mask, "causal" in masking) for device in ("cuda", "cpu"))
    for mine, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, right, rtol=1e-4, atol=1e-5)
    if masking == "mask" and broken in ("k", "v", "kv", "infinite"):
        assert np.isfinite(found[0]).all()


def test_a_nan_that_a_seen_key_makes_is_not_taken_for_a_masked_one():
    """A weight of 0 times what falls is -0, which is not that of a masked key: its NaN stays."""
    for more in (0, 40):
        k = np.concatenate([np.zeros((1 + more, 1)), [[-np.inf]]]).astype(np.float32)
        v = np.concatenate([np.ones((1 + more, 1)), [[0]]]).astype(np.float32)
        g, q = np.ones((1, 1), np.float32), np.ones((1, 1), np.float32)
        found, expected = (_passes(device, *(x[None, None] for x in (g, q, k, v)), None, False)
                           for device in ("cuda", "cpu"))
        assert np.isnan(expected[1]).all()
        for mine, right in zip(found, expected, strict=True):
            np.testing.assert_allclose(mine, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("keys", [3, 40])
@pytest.mark.parametrize("p", [0.3, 1.0])
def test_what_dropout_drops_does_not_leak(keys, p):
    g, q, k, v = inputs((1, 2), 5, keys, 4, 4)
    v[..., -1, :], seen = np.inf, np.arange(keys) < keys - 1
    if p == 1.0:
        q[..., 0, :] = np.nan
    made = []
    for device in ("cuda", "cpu"):
        leaves = [Tensor(x, requires_grad=True, device=device) for x in (q, k, v)]
        engine.seed(4)
        y = engine.scaled_dot_product_attention(*leaves, Tensor(seen, device=device), p=p)
        made.append([x.numpy() for x in (y, *engine.grad(y, leaves, Tensor(g, device=device)))])
    for mine, right in zip(*made, strict=True):
        np.testing.assert_array_equal(np.isfinite(mine), np.isfinite(right))
        np.testing.assert_allclose(mine, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_heads_without_features(device):
    """Every score is 0, and values still have gradients."""
    shapes = (2, 0), (3, 0), (3, 2)
    q, k, v = (Tensor(np.ones((1, 1, *shape), np.float32), requires_grad=True, device=device) for shape in shapes)
    y = engine.scaled_dot_product_attention(q, k, v)
    assert y.tolist() == [[[[1, 1], [1, 1]]]]
    dq, dk, dv = engine.grad(engine.sum(y), [q, k, v])
    assert dq.shape == (1, 1, 2, 0) and dk.shape == (1, 1, 3, 0)
    np.testing.assert_allclose(dv.numpy(), np.full((1, 1, 3, 2), 2 / 3), rtol=1e-6)
    nothing = Tensor(np.ones((1, 3, 0), np.float32), device=device)
    assert engine.OPS["self_attention"](nothing, heads=1).shape == (1, 3, 0)


def test_a_reversed_mask_of_one_axis_for_heads_of_more_than_four():
    x, seen = numbers(2, 2, 2, 3, 4), np.array([True, False, False])
    made = [engine.scaled_dot_product_attention(*[Tensor(x, device=device)] * 3, Tensor(seen, device=device)[::-1])
            for device in ("cuda", "cpu")]
    np.testing.assert_allclose(made[0].numpy(), made[1].numpy(), rtol=1e-5)
