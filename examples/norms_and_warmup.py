"""Post-norm against pre-norm, with and without warm-up: who needs it.

The paper normalises after each residual connection (post-norm); the gradients that reach the last layers are then large
at the start, and a full learning rate at once throws the model off. A warm-up keeps the first steps small. Pre-norm
normalises inside the residual branch and needs less care (Xiong et al. 2020, "On Layer Normalization in the Transformer
Architecture").
"""
import sys

import engine
from microtfm import ModelSettings, TrainSettings, Transformer, data, tokens, toy
from microtfm.fitting import fit

SHORT = "--short" in sys.argv
STEPS, LAYERS, PEAK = (4, 2, 0.004) if SHORT else (160, 6, 0.004)
learn, _ = toy.corpus(n=4000, held_out=50, seed=0)
chinese, _ = tokens.train("word", [zh for zh, _ in learn], size=2000)
english, _ = tokens.train("word", [en for _, en in learn], size=2000)
ids, _ = data.encode(learn, chinese, english)

found = {}
for norm in ("post", "pre"):
    for warmup in (100, 1):
        engine.seed(0)
        settings = ModelSettings(d_model=32, heads=2, layers=LAYERS, ffn=64, dropout=0.0, norm=norm, tie="output")
        losses = fit(Transformer(settings, len(chinese), len(english)), ids,
                     TrainSettings(steps=STEPS, batch_tokens=600, lr=PEAK, warmup=warmup, schedule="constant"))
        found[norm, warmup] = sum(losses[-10:]) / len(losses[-10:])
        steps = "  ".join(f"{losses[i]:.2f}" for i in range(0, STEPS, max(STEPS // 8, 1)))
        how = "warm-up" if warmup > 1 else "full rate at once"
        print(f"{norm}-norm, {how}: {steps}  then {found[norm, warmup]:.2f}")
if not SHORT:
    assert found["post", 1] > found["post", 100] + 0.5, "post-norm without warm-up is thrown off"
    assert found["pre", 1] < found["post", 1] - 0.5, "pre-norm is not"
