"""Attention that reorders Chinese into English: a relative clause stands before its noun there, and behind it here.

    我 喜欢 的 椅子   ->   the chair that i like

A small model is trained; then, for sentences that it has not seen, we look where it looks while it writes each English
word. `python examples/reorder.py FILE.svg` also draws it.
"""
import re
import sys

import numpy as np

import engine
from microtfm import ModelSettings, TrainSettings, Transformer, Translator, data, tokens, toy
from microtfm.fitting import fit

SHORT, CLAUSE = "--short" in sys.argv, re.compile(r"\bthe (\w+) that (\w+)")
learn, unseen = toy.corpus(n=8000, held_out=600, seed=0)
chinese, _ = tokens.train("word", [zh for zh, _ in learn], size=2000)
english, _ = tokens.train("word", [en for _, en in learn], size=2000)
ids, _ = data.encode(learn, chinese, english)
engine.seed(0)
settings = ModelSettings(d_model=64, heads=4, layers=2, ffn=256, dropout=0.0, tie="output")
model = Transformer(settings, len(chinese), len(english))
fit(model, ids, TrainSettings(steps=5 if SHORT else 600, batch_tokens=1000, lr=0.004, warmup=100))
translator = Translator(model, chinese, english)

crossed = seen = 0
for zh, en in unseen:
    match = CLAUSE.search(en)
    if match is None or translator.translate([zh]) != [en]:
        continue
    weights, source, target = translator.attention(zh)                                 # (layers, H, T, S)
    looked = weights.mean(axis=(0, 1))                                                 # (T, S)
    place = (looked * np.arange(looked.shape[1])).sum(axis=1)                          # where on average, of each word
    noun = next(i for i, word in enumerate(target) if word == match[1] and target[i + 1] == "that")
    clause = slice(noun + 2, noun + 4)                                                 # the clause's first two words
    seen += 1
    crossed += place[noun] > place[clause].mean()
    if seen <= 3:
        print(f"{zh}  ->  {en}")
        for t in range(noun, min(noun + 4, len(target))):
            best = int(looked[t].argmax())
            print(f"    {target[t]:<12} looked most at {source[best]} ({best}), on average at {place[t]:.1f}")
print(f"{crossed} of {seen} nouns with a clause behind them were looked for behind the clause")
if not SHORT:
    assert seen >= 8 and crossed >= 0.8 * seen, (crossed, seen)
if sys.argv[1:] and sys.argv[1].endswith(".svg"):
    from microtfm.attention_map import attention_svg
    attention_svg(*translator.attention("他们不喜欢我喜欢的椅子。"), sys.argv[1])
