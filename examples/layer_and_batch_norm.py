"""Layer norm beside batch norm, in four lines each: whose numbers depend on the neighbours.

Both make numbers of mean 0 and variance 1. Layer norm takes them over the D features of one position; batch norm over
all positions of all sentences of the batch, for each feature. So under batch norm a sentence comes out differently in
other company, padding counts as if it were text, and a sentence alone is not what it was in training.
"""
import numpy as np

import engine
from engine import Tensor

B, T, D, EPS = 4, 6, 8, 1e-5
rng = np.random.default_rng(0)
x = rng.normal(1.0, 2.0, (B, T, D)).astype(np.float32)                                             # (B, T, D)


def normalised(x, axis):
    """Mean 0 and variance 1 over the given axes."""
    mean = engine.mean(x, axis=axis, keepdims=True)
    variance = engine.mean((x - mean) * (x - mean), axis=axis, keepdims=True)
    return (x - mean) / engine.sqrt(variance + EPS)


def layer_norm(x):
    return normalised(Tensor(x), axis=-1)                                                          # over D


def batch_norm(x):
    return normalised(Tensor(x), axis=(0, 1))                                                      # over B and T


ours = engine.layer_norm(Tensor(x), engine.ones((D,)), engine.zeros((D,)), eps=EPS).numpy()
np.testing.assert_allclose(layer_norm(x).numpy(), ours, rtol=1e-4, atol=1e-5)
padded = np.concatenate([x, np.zeros((B, 3, D), np.float32)], axis=1)
print(f"{'the first sentence ...':<28}{'layer norm':>12}{'batch norm':>12}   largest change of a number")
for what, other in (("alone", x[:1]), ("among others", np.concatenate([x[:1], 3 * x[1:]])), ("with padding", padded)):
    changes = [float(np.abs(norm(other).numpy()[0, :T] - norm(x).numpy()[0]).max())
               for norm in (layer_norm, batch_norm)]
    print(f"  {what:<26}{changes[0]:12.6f}{changes[1]:12.6f}")
    assert changes[0] == 0 and changes[1] > 0.1

for norm, name in ((layer_norm, "layer norm"), (batch_norm, "batch norm")):
    sentences = Tensor(x, requires_grad=True)
    axis = -1 if norm is layer_norm else (0, 1)
    y = normalised(sentences, axis)
    engine.sum(y[0] * Tensor(rng.normal(size=(T, D)).astype(np.float32))).backward()             # a loss of sentence 0
    others = float(np.abs(sentences.grad.numpy()[1:]).max())
    print(f"gradient that sentence 0's loss sends into the other sentences under {name}: {others:.4f}")
    assert (others == 0) == (norm is layer_norm)
