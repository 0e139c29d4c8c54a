"""BLEU against time, ours beside PyTorch's: the same model, first weights, text, batches, recipe and machine.

    python tests/trial_torch.py ours ours.jsonl --src a.en --tgt a.de --valid-src v.en --valid-tgt v.de
    python tests/trial_torch.py torch torch.jsonl …          # options: --recipe tiny --minutes 60 --every 250 --seed 0

Time is that of the updates alone. Every so many of them the averaged weights are put into our model, which translates
the validation sentences greedily; a line with step, seconds, loss and BLEU is added to the file. One side at a time.
"""
from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

import engine
from microtfm import material as materials
from microtfm.data import Batch
from microtfm.layers import sinusoids
from microtfm.learner import Learner
from microtfm.optim import Adam, rate
from microtfm.recipes import RECIPES
from microtfm.settings import Settings
from microtfm.tokens import PAD
from microtfm.transformer import Transformer
from microtfm.validation import validate


class Ours:
    """What `microtfm train` runs."""

    def __init__(self, model: Transformer, settings: Settings) -> None:
        self.model, train = model, settings.train
        self.adam = Adam(list(model.named_parameters()), train.lr, average=train.average)
        self.learner = Learner(model, self.adam, train)

    def update(self, batches: Sequence[Batch], lr: float, tokens: int) -> float:
        """One step; the loss a token."""
        return self.learner(batches, lr, tokens)[0] / tokens

    def weights(self) -> dict[str, np.ndarray]:
        """The averaged weights by our names."""
        with self.adam.averaged():
            return {name: value.copy() for name, value in self.model.state_dict().items()}


class Torch:
    """nn.Transformer with the same weights, dropout where ours has it, fused Adam, and the same average."""

    def __init__(self, model: Transformer, settings: Settings) -> None:
        import torch
        from test_torch_agreement import peer
        self.torch, self.model, self.s, self.train = torch, model, settings.model, settings.train
        self.inner, self.outer = peer(model, self.s)
        for name, part in self.inner.named_modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = self.s.inner_dropout if name.endswith(".dropout") else self.s.dropout
            elif isinstance(part, torch.nn.MultiheadAttention):
                part.dropout = self.s.inner_dropout
        self.inner.train()
        self.parameters = [*self.inner.parameters(), *self.outer.values()]
        self.adam = torch.optim.Adam(self.parameters, self.train.lr, (0.9, 0.98), 1e-9, fused=True)
        self.average = [p.detach().clone() for p in self.parameters]
        self.positions = torch.from_numpy(sinusoids(4 * settings.tokens.max_length, self.s.d_model))
        self.steps = 0

    def update(self, batches: Sequence[Batch], lr: float, tokens: int) -> float:
        """One step; the loss a token."""
        torch, self.steps = self.torch, self.steps + 1
        self.adam.param_groups[0]["lr"] = lr
        self.adam.zero_grad(set_to_none=True)
        total = 0.0
        for batch in batches:
            loss = self.loss(*(torch.from_numpy(x) for x in (batch.source, batch.target_in, batch.target_out))) / tokens
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.train.clip_norm)
        self.adam.step()
        share = 1.0 / min(self.train.average, 1.0 + (self.steps - 1.0) / 10.0)
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.parameters, share)
        return total

    def loss(self, source: Any, target_in: Any, target_out: Any) -> Any:
        """The sum over all tokens of a batch."""
        functional, table = self.torch.nn.functional, self.outer["source_embedding.weight"]
        x, y = self.embedded(source, table), self.embedded(target_in, table)
        padding = source == PAD
        hidden = self.torch.zeros(padding.shape).masked_fill(padding, -self.torch.inf) if padding.any() else None
        causal = self.torch.nn.Transformer.generate_square_subsequent_mask(target_in.shape[1])
        out = self.inner(x, y, tgt_mask=causal, tgt_is_causal=True, src_key_padding_mask=hidden,
                         memory_key_padding_mask=hidden)
        return functional.cross_entropy((out @ table.T).flatten(0, 1), target_out.flatten(), ignore_index=PAD,
                                        label_smoothing=self.train.label_smoothing, reduction="sum")

    def embedded(self, ids: Any, table: Any) -> Any:
        """Ids (B, T) as vectors (B, T, D) that know their positions."""
        functional = self.torch.nn.functional
        x = functional.embedding(ids, table) * math.sqrt(self.s.d_model) + self.positions[:ids.shape[1]]
        return functional.dropout(x, self.s.dropout)

    def weights(self) -> dict[str, np.ndarray]:
        """The averaged weights by our names."""
        from test_torch_agreement import peer_name
        names = [name for name, _ in self.inner.named_parameters()] + list(self.outer)
        kept, d = dict(zip(names, self.average, strict=True)), self.s.d_model
        found = {}
        for name, value in self.model.state_dict().items():
            if name in self.outer:
                array = kept[name]
            else:
                other, third = peer_name(name)
                array = kept[other] if third is None else kept[other][third * d:(third + 1) * d]
            turned = value.ndim == 2 and "embedding" not in name
            found[name] = (array.numpy().T if turned else array.numpy()).copy()
        return found


def main() -> None:
    """Train one side and write its curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=["ours", "torch"])
    parser.add_argument("file", type=Path, help="of the curve, JSON lines; must not exist")
    for name in ("src", "tgt", "valid-src", "valid-tgt"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--recipe", default="tiny", choices=list(RECIPES))
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--every", type=int, default=250, help="steps between validations")
    parser.add_argument("--seed", type=int, default=0)
    wish = parser.parse_args()
    files = {name: str(getattr(wish, name)) for name in ("src", "tgt", "valid_src", "valid_tgt")}
    settings = Settings.from_recipe(wish.recipe, seed=wish.seed, **files)
    if settings.model.tie != "all" or settings.model.norm != "post":
        parser.error(f"the recipe {wish.recipe} is not post-norm with one embedding for all")
    texts = materials.read(settings)
    source, target, _ = materials.tokenizers(texts, settings)
    text = materials.prepare(texts, settings, source, target)
    engine.seed(settings.seed)
    model, judge = (Transformer(settings.model, len(source), len(target)) for _ in range(2))
    side: Any = (Ours if wish.side == "ours" else Torch)(model.train(), settings)
    train, spent, batches = settings.train, 0.0, text.order(settings, 0, 0)
    with wish.file.open("x", encoding="utf-8") as out, warnings.catch_warnings(action="ignore", category=UserWarning):
        for step in range(1, (train.last_step or 0) + 1):
            portion = [batch for _, _, batch in islice(batches, train.accumulate)]
            lr = rate(train.schedule, step, train.lr, train.warmup, settings.model.d_model)
            began = time.monotonic()
            loss = side.update(portion, lr, sum(batch.tokens for batch in portion))
            spent += time.monotonic() - began
            ending = spent >= 60 * wish.minutes or step == train.last_step
            if step % wish.every == 0 or ending:
                judge.load_state_dict(side.weights())
                found = validate(judge, text, settings)
                assert found is not None
                line = {"step": step, "seconds": round(spent, 1), "loss": loss, **found.metrics}
                print(f"{wish.side} step {step}: {spent:.0f} s, loss {loss:.3f}, BLEU {line['bleu']:.1f}", flush=True)
                out.write(json.dumps(line) + "\n")
                out.flush()
            if ending:
                return


if __name__ == "__main__":
    main()
