"""Gradient norms by layer, with and without the residual connections: why a deep stack learns at all.

A residual connection hands the gradient down as it is. Without it, each layer's Jacobian multiplies it, and after a
dozen layers little is left for the first: it would learn a thousand times more slowly than the last.
"""
import numpy as np

import engine
from microtfm import ModelSettings, Transformer
from microtfm.loss import translation_loss
from microtfm.transformer import EncoderLayer

LAYERS, V = 12, 50


def gradient_norms(residual, norm):
    """The norm of the loss's gradient by the weights of each encoder layer, the first layer first."""
    engine.seed(0)
    settings = ModelSettings(d_model=32, heads=4, layers=LAYERS, ffn=64, dropout=0.0, norm=norm, tie="none")
    model = Transformer(settings, V, V)
    if not residual:
        for layer in model.modules():
            if isinstance(layer, EncoderLayer):
                # the sublayer alone, and no norm, which would scale the gradient again
                layer.around = lambda x, sublayer, norm, dropout: sublayer(x)
    rng = np.random.default_rng(0)
    source, target = rng.integers(4, V, (8, 10)), rng.integers(4, V, (8, 11))
    translation_loss(model(source, target[:, :-1]), engine.Tensor(target[:, 1:])).backward()
    return [float(np.sqrt(sum((p.grad.numpy() ** 2).sum() for p in layer.parameters() if p.grad is not None)))
            for layer in model.encoder.layers]


found = {}
for name, residual, norm in (("post-norm", True, "post"), ("pre-norm", True, "pre"), ("no residual", False, "pre")):
    found[name] = gradient_norms(residual, norm)
    print(f"{name:<12}" + " ".join(f"{value:9.1e}" for value in found[name]))
assert found["pre-norm"][0] > found["pre-norm"][-1] / 10, "with the residual, the first layer learns like the last"
assert found["post-norm"][0] > found["post-norm"][-1] / 100
assert found["no residual"][0] < found["no residual"][-1] / 1000, "without it, the first layer hardly learns"
