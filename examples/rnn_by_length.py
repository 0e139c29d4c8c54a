"""What the Transformer changed, on one chart: an RNN with attention and a Transformer by the length of the sentence.

Both are trained on the same sentences for the same number of updates, and have about as many parameters. The recurrent
encoder carries what it has read through one step after the other; attention reaches every word in one. Short lines are
none the worse for the steps; long ones are. `python examples/rnn_by_length.py FILE.svg` draws the chart.
"""
import sys
import time

import numpy as np

import engine
from microtfm import ModelSettings, TrainSettings, Translator, data, tokens, toy
from microtfm.architecture import build
from microtfm.evaluate import exact_match, score
from microtfm.fitting import fit

SHORT = "--short" in sys.argv
LENGTHS = ((1, 7), (8, 10), (11, 14), (15, 28))          # source tokens
KINDS = {                                # two layers on each side of the one, one of the other
    "Transformer": ModelSettings(d_model=64, heads=4, layers=2, ffn=256, dropout=0.0, tie="output"),
    "RNN": ModelSettings(kind="rnn", d_model=100, layers=1, dropout=0.0, tie="output")}
COLOURS = {"Transformer": "#2166ac", "RNN": "#d95f02"}
learn, unseen = toy.corpus(n=6000, held_out=600, seed=0)
rng = np.random.default_rng(0)


def joined(pairs, count):
    """Half of them single sentences, half two sentences in one line."""
    picks = [rng.integers(0, len(pairs), 1 + i % 2) for i in range(count)]
    return [("".join(pairs[i].zh for i in pick), " ".join(pairs[i].en for i in pick)) for pick in picks]


learn, exam = joined(learn, 6000), joined(unseen, 300)
chinese, _ = tokens.train("word", [zh for zh, _ in learn], size=2000)
english, _ = tokens.train("word", [en for _, en in learn], size=2000)
ids, _ = data.encode(learn, chinese, english)
size = [len(chinese.encode(zh)) for zh, _ in exam]
buckets = {bucket: [i for i, n in enumerate(size) if bucket[0] <= n <= bucket[1]] for bucket in LENGTHS}

found = {}
for name, settings in KINDS.items():
    engine.seed(0)
    model = build(settings, len(chinese), len(english))
    began = time.monotonic()
    fit(model, ids, TrainSettings(steps=3 if SHORT else 300, batch_tokens=1000, lr=0.004, warmup=100))
    seconds = time.monotonic() - began
    said = Translator(model, chinese, english).translate([zh for zh, _ in exam])
    for bucket, picks in buckets.items():
        texts, wanted = [said[i] for i in picks], [exam[i][1] for i in picks]
        found[name, bucket] = score(texts, wanted).bleu
        print(f"{name:<12} {model.count():>8,} parameters, {bucket[0]:>2} to {bucket[1]:>2} tokens: BLEU "
              f"{found[name, bucket]:5.1f}, exact {exact_match(texts, wanted):4.0%}  ({len(picks)} lines; trained "
              f"{seconds:.0f} s)")


def chart():
    """The scores against the length, as SVG."""
    def at(i, value):
        return f"{70 + 150 * i:.0f},{260 - 2.2 * value:.0f}"

    parts = ['<svg xmlns="http://www.w3.org/2000/svg" width="620" height="330" font-family="sans-serif" font-size="13">'
             '<rect width="620" height="330" fill="white"/>'
             '<text x="20" y="22">BLEU by source tokens of the line</text>']
    for value in range(0, 101, 25):
        parts.append(f'<path d="M60 {260 - 2.2 * value:.0f}H580" stroke="#ddd"/>'
                     f'<text x="52" y="{264 - 2.2 * value:.0f}" text-anchor="end">{value}</text>')
    for i, (low, high) in enumerate(LENGTHS):
        parts.append(f'<text x="{70 + 150 * i}" y="282" text-anchor="middle">{low}–{high}</text>')
    for n, (name, colour) in enumerate(COLOURS.items()):
        points = " ".join(at(i, found[name, bucket]) for i, bucket in enumerate(LENGTHS))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5"/>'
                     f'<text x="{200 + 150 * n}" y="312" fill="{colour}">{name}</text>')
    return "".join(parts) + "</svg>\n"


if not SHORT:
    longest = LENGTHS[-1]
    gap = {bucket: found["Transformer", bucket] - found["RNN", bucket] for bucket in LENGTHS}
    print("Transformer ahead by", {f"{low}-{high}": round(value, 1) for (low, high), value in gap.items()})
    others = [value for bucket, value in gap.items() if bucket != longest]
    assert gap[longest] > 10 + max(0.0, *others), "long lines are what it changed"
for argument in sys.argv[1:]:
    if argument.endswith(".svg"):
        with open(argument, "w", encoding="utf-8") as file:
            file.write(chart())
