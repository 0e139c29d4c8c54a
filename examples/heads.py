"""What each head attends to: the previous word, the next one, the end, or a word of its choice.

A small model is trained; then, over unseen sentences, each head's attention is sorted by where it falls. Heads come to
do different things, though nothing tells them to (Voita et al. 2019, "Analyzing Multi-Head Self-Attention").
"""
import sys

import numpy as np

import engine
from microtfm import ModelSettings, TrainSettings, Transformer, data, tokens, toy
from microtfm.fitting import fit

SHORT = "--short" in sys.argv
learn, unseen = toy.corpus(n=8000, held_out=60, seed=0)
chinese, _ = tokens.train("word", [zh for zh, _ in learn], size=2000)
english, _ = tokens.train("word", [en for _, en in learn], size=2000)
ids, _ = data.encode(learn, chinese, english)
engine.seed(0)
model = Transformer(ModelSettings(d_model=64, heads=4, layers=2, ffn=256, dropout=0.0, tie="output"),
                    len(chinese), len(english))
fit(model, ids, TrainSettings(steps=5 if SHORT else 500, batch_tokens=1000, lr=0.004, warmup=100))


def shares(weights):
    """Of one head's weights (T, S): how much falls on each kind of place, and how much on the one best place."""
    t, s = weights.shape
    row, column = np.arange(t)[:, None], np.arange(s)[None]
    places = {"the same": column == row, "the previous": column == row - 1, "the next": column == row + 1,
              "the end": np.broadcast_to(column == s - 1, (t, s))}
    return {name: float((weights * place).sum() / t) for name, place in places.items()} | {
        "one place": float(weights.max(axis=1).mean())}


attentions = {f"{part} {i}": getattr(layer, name) for part, stack, name in (
    ("encoder", model.encoder, "self_attention"), ("decoder", model.decoder, "self_attention"),
    ("decoder to encoder", model.decoder, "cross_attention")) for i, layer in enumerate(stack.layers)}
found = {}
for attention in attentions.values():
    attention.seen = []
with engine.no_grad():
    for zh, en in unseen:
        model(data.pad_sources([chinese.encode(zh)]), np.array([[tokens.BOS, *english.encode(en)]]))
for place, attention in attentions.items():
    for head in range(4):
        each = [shares(weights[0, head]) for weights in attention.seen]
        found[place, head] = {name: float(np.mean([one[name] for one in each])) for name in each[0]}
names = list(next(iter(found.values())))
print(f"{'':<24}" + "".join(f"{name:>14}" for name in names))
for (place, head), table in found.items():
    print(f"{place + ', head ' + str(head):<24}" + "".join(f"{table[name]:>14.2f}" for name in names))
print("how differently two heads of a layer look, on average (0: the same, 1: nowhere the same)")
for place, attention in attentions.items():
    each = [weights[0] for weights in attention.seen]                                              # (H, T, S)
    apart = [float(np.mean([np.abs(w[a] - w[b]).sum(axis=-1).mean() / 2 for w in each]))
             for a in range(4) for b in range(a)]
    print(f"{place:<24}{min(apart):6.2f} to {max(apart):.2f}")
    assert SHORT or max(apart) > 0.1, place
last = [found["decoder to encoder 1", head]["one place"] for head in range(4)]
print(f"the last layer's heads put {min(last):.0%} to {max(last):.0%} of their attention on one source token")
assert SHORT or min(last) > 0.5
