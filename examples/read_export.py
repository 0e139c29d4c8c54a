"""Read an exported model with NumPy and safetensors alone, and translate with it: the layout, as a program.

`microtfm export RUN -o model.safetensors` writes the file; `python -m pydoc microtfm.export` describes it. Here models
of each kind are exported first and read back; what stands above the last part needs nothing of this project.
"""
import json
import tempfile
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file

EOS, BOS, PAD = 3, 2, 0


def read(path):
    """A model of the kind that the file says."""
    with safe_open(path, framework="numpy") as file:
        facts = json.loads(file.metadata()["facts"])
    kinds = {"transformer": Transformer, "rnn": Recurrent}
    return kinds[facts["model"]["kind"]](load_file(path), facts["model"])


class Model:
    """Weights by name, and the model settings."""

    def __init__(self, weights, settings):
        self.weights, self.settings = weights, settings
        tied = {"all": "source_embedding.weight", "output": "target_embedding.weight"}.get(settings["tie"])
        self.output = weights[tied].T if tied else weights["projection.weight"]
        self.target = "source_embedding.weight" if settings["tie"] == "all" else "target_embedding.weight"

    def embedding(self, ids, name):
        """√D times the rows of a table."""
        return self.weights[name][ids] * np.sqrt(self.settings["d_model"])

    def linear(self, x, name):
        """x W, and + b where there is one."""
        return x @ self.weights[f"{name}.weight"] + self.weights.get(f"{name}.bias", 0)

    def attention(self, x, memory, name, heads, causal=False):
        """x (T, D) looks at memory (S, D)."""
        q, k, v = (self.linear(y, f"{name}.{part}").reshape(len(y), heads, -1).swapaxes(0, 1)
                   for y, part in ((x, "query"), (memory, "key"), (memory, "value")))
        scores = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])
        if causal:
            scores = np.where(np.tril(np.ones(scores.shape[1:], bool)), scores, -np.inf)
        share = np.exp(scores - scores.max(-1, keepdims=True))
        y = share / share.sum(-1, keepdims=True) @ v
        return self.linear(y.swapaxes(0, 1).reshape(len(x), -1), f"{name}.output")

    def translate(self, source):
        """Greedy translation of source ids."""
        memory, ids = self.encode([*source, EOS]), [BOS]
        while len(ids) <= 2 * (len(source) + 1) + 20:
            logits = self.decode(ids, memory)[-1] @ self.output
            logits[[PAD, BOS]] = -np.inf
            ids.append(int(logits.argmax()))
            if ids[-1] == EOS:
                return ids[1:-1]
        return ids[1:]


class Transformer(Model):
    """Vaswani et al. 2017."""

    def norm(self, x, name):
        """Layer norm over the features."""
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def around(self, x, name, f, *rest):
        """A step and the norm around it."""
        if self.settings["norm"] == "pre":
            return x + f(self.norm(x, name), *rest)
        return self.norm(x + f(x, *rest), name)

    def look(self, x, name, memory=None, causal=False):
        """Attention to the memory, or to x itself."""
        return self.attention(x, x if memory is None else memory, name, self.settings["heads"], causal)

    def feed_forward(self, x, name):
        """Two linear layers with a relu between them."""
        return self.linear(np.maximum(self.linear(x, f"{name}.linear1"), 0), f"{name}.linear2")

    def embedded(self, ids, name):
        """Embeddings and positions."""
        d = self.settings["d_model"]
        angle = np.arange(len(ids))[:, None] / 10000 ** (np.arange(0, d, 2) / d)
        positions = np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(len(ids), d)
        return self.embedding(ids, name) + positions

    def ended(self, x, name):
        """The norm behind the last layer, where there is one."""
        return self.norm(x, name) if self.settings["final_norm"] else x

    def encode(self, ids):
        """(S, D)."""
        x = self.embedded(ids, "source_embedding.weight")
        for n in range(self.settings["layers"]):
            at = f"encoder.layers.{n}"
            x = self.around(x, f"{at}.norm1", self.look, f"{at}.self_attention")
            x = self.around(x, f"{at}.norm2", self.feed_forward, f"{at}.feed_forward")
        return self.ended(x, "encoder.norm")

    def decode(self, ids, memory):
        """(T, D)."""
        x = self.embedded(ids, self.target)
        for n in range(self.settings["layers"]):
            at = f"decoder.layers.{n}"
            x = self.around(x, f"{at}.norm1", self.look, f"{at}.self_attention", None, True)
            x = self.around(x, f"{at}.norm2", self.look, f"{at}.cross_attention", memory)
            x = self.around(x, f"{at}.norm3", self.feed_forward, f"{at}.feed_forward")
        return self.ended(x, "decoder.norm")


class Recurrent(Model):
    """Gated recurrent units with attention."""

    def unit(self, x, state, name):
        """The state after each row of x."""
        found = []
        for row in x:
            gates = self.linear(row, f"{name}.input_gates") + self.linear(state, f"{name}.state_gates")
            r, z = np.split(1 / (1 + np.exp(-gates)), 2)
            new = np.tanh(self.linear(row, f"{name}.input_new") + r * self.linear(state, f"{name}.state_new"))
            state = new + z * (state - new)
            found.append(state)
        return np.stack(found)

    def encode(self, ids):
        """The output (S, D), and the state that each layer ends with at the left."""
        x, begin, ends = self.embedding(ids, "source_embedding.weight"), np.zeros(self.settings["d_model"] // 2), []
        for n in range(self.settings["layers"]):
            back = self.unit(x[::-1], begin, f"encoder.backwards.{n}")[::-1]
            x = np.concatenate([self.unit(x, begin, f"encoder.forwards.{n}"), back], axis=-1)
            ends.append(back[0])
        return x, ends

    def decode(self, ids, memory):
        """(T, D)."""
        x, (output, ends) = self.embedding(ids, self.target), memory
        for n, end in enumerate(ends):
            x = self.unit(x, np.tanh(self.linear(end, f"decoder.begin.{n}")), f"decoder.layers.{n}")
        found = self.attention(x, output, "decoder.attention", 1)
        return np.tanh(self.linear(np.concatenate([found, x], axis=-1), "decoder.combine"))


if __name__ == "__main__":
    from microtfm import Settings, Translator, toy
    from microtfm.export import export
    from microtfm.train import train

    learn, unseen = ([(zh, en) for zh, en in part] for part in toy.corpus(n=2000, held_out=30, seed=0))
    for kind in ({"norm": "post"}, {"norm": "pre"}, {"kind": "rnn", "tie": "none"}):
        with tempfile.TemporaryDirectory() as folder:
            run, file = Path(folder) / "run", Path(folder) / "model.safetensors"
            train(Settings.from_dict({"recipe": "demo", "out": str(run), "model": kind, "train": {
                "steps": 60, "batch_tokens": 600, "warmup": 40, "validate_every": 60, "keep": 0}}, ""),
                corpus=(learn, unseen))
            export(run, file)
            translator, model = Translator.load(run), read(file)
            print(f"{len(model.weights)} tensors, {sum(w.size for w in model.weights.values()):,} numbers, {kind}")
            for zh, _ in unseen[:10]:
                said = translator.target.decode(model.translate(translator.source.encode(zh)))
                print(f"{zh}  ->  {said}")
                assert said == translator.translate([zh])[0]
