"""Read an exported model with NumPy and safetensors alone, and translate with it: the layout, as a program.

`microtfm export RUN -o model.safetensors` writes the file; `python -m pydoc microtfm.export` describes it. Here a model
is exported first and read back; `read` and `translate` need nothing of this project.
"""
import json
import tempfile
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file

EOS, BOS, PAD = 3, 2, 0


def read(path):
    """The weights by name, and the facts about them."""
    with safe_open(path, framework="numpy") as file:
        facts = json.loads(file.metadata()["facts"])
    return load_file(path), facts


def translate(weights, facts, source):
    """Greedy translation of source ids; the model is post-norm, as in the paper."""
    settings = facts["model"]
    heads, d = settings["heads"], settings["d_model"]
    tied = {"all": "source_embedding.weight", "output": "target_embedding.weight"}
    output = weights["projection.weight"] if settings["tie"] == "none" else weights[tied[settings["tie"]]].T

    def linear(x, name):
        return x @ weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def attention(x, memory, name, causal=False):
        q, k, v = (linear(y, f"{name}.{part}").reshape(len(y), heads, -1).swapaxes(0, 1)
                   for y, part in ((x, "query"), (memory, "key"), (memory, "value")))
        scores = q @ k.swapaxes(1, 2) / np.sqrt(d / heads)
        if causal:
            scores = np.where(np.tril(np.ones(scores.shape[1:], bool)), scores, -np.inf)
        share = np.exp(scores - scores.max(-1, keepdims=True))
        y = share / share.sum(-1, keepdims=True) @ v
        return linear(y.swapaxes(0, 1).reshape(len(x), d), f"{name}.output")

    def feed_forward(x, name):
        return linear(np.maximum(linear(x, f"{name}.linear1"), 0), f"{name}.linear2")

    def embedded(ids, name):
        angle = np.arange(len(ids))[:, None] / 10000 ** (np.arange(0, d, 2) / d)
        positions = np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(len(ids), d)
        return weights[name][ids] * np.sqrt(d) + positions

    x = embedded([*source, EOS], "source_embedding.weight")
    for n in range(settings["layers"]):
        at = f"encoder.layers.{n}"
        x = norm(x + attention(x, x, f"{at}.self_attention"), f"{at}.norm1")
        x = norm(x + feed_forward(x, f"{at}.feed_forward"), f"{at}.norm2")
    memory, ids = x, [BOS]
    while len(ids) <= 2 * (len(source) + 1) + 20:
        y = embedded(ids, tied["all"] if settings["tie"] == "all" else "target_embedding.weight")
        for n in range(settings["layers"]):
            at = f"decoder.layers.{n}"
            y = norm(y + attention(y, y, f"{at}.self_attention", causal=True), f"{at}.norm1")
            y = norm(y + attention(y, memory, f"{at}.cross_attention"), f"{at}.norm2")
            y = norm(y + feed_forward(y, f"{at}.feed_forward"), f"{at}.norm3")
        logits = y[-1] @ output
        logits[[PAD, BOS]] = -np.inf
        ids.append(int(logits.argmax()))
        if ids[-1] == EOS:
            return ids[1:-1]
    return ids[1:]


if __name__ == "__main__":
    from microtfm import Settings, Translator, toy
    from microtfm.export import export
    from microtfm.train import train

    with tempfile.TemporaryDirectory() as folder:
        learn, unseen = ([(zh, en) for zh, en in part] for part in toy.corpus(n=2000, held_out=30, seed=0))
        run, file = Path(folder) / "run", Path(folder) / "model.safetensors"
        train(Settings.from_dict({"recipe": "demo", "out": str(run), "train": {
            "steps": 60, "batch_tokens": 600, "warmup": 40, "validate_every": 60, "keep": 0}}), corpus=(learn, unseen))
        export(run, file)
        translator = Translator.load(run)
        weights, facts = read(file)
        print(f"{len(weights)} tensors, {sum(w.size for w in weights.values()):,} numbers, {facts['model']}")
        for zh, _ in unseen[:10]:
            said = translator.target.decode(translate(weights, facts, translator.source.encode(zh)))
            print(f"{zh}  ->  {said}")
            assert said == translator.translate([zh])[0]
