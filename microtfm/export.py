"""A model in one file that any reader of safetensors opens, with all that is needed to translate with it.

The layout, version 1:

- Tensors are float32, named by their place in the model, `encoder.layers.0.self_attention.query.weight`. A matrix is
  (inputs, outputs): y = x W + b. Weights that are shared stand once, under the first of their names: with tie = "all",
  `source_embedding.weight` is also the target embedding and, transposed, the output projection; with tie = "output",
  `target_embedding.weight` is also the latter.
- A Transformer (model.kind "transformer") is that of Vaswani et al. 2017. Its input is √d_model times the embedding
  plus sinusoids, sine at even and cosine at odd features of one frequency; the source ends with the id of <eos>, the
  target begins with that of <bos>. A layer's steps have `norm1`, `norm2` and, in the decoder, `norm3`: norm(x + f(x))
  with norm = "post", x + f(norm(x)) with "pre"; where `final_norm` is true, `encoder.norm` and `decoder.norm` follow
  the last layers. Norms add 1e-5 to the variance (the mean of squares) and have `weight` and `bias`. Attention divides
  the scores by √(d_model / heads); head h has the h-th part of the features of `query`, `key` and `value`. The
  feed-forward is `linear2` of the relu of `linear1`.
- A recurrent model (model.kind "rnn") is made of gated recurrent units: with a, b, c, e = `input_gates`, `input_new`,
  `state_gates`, `state_new`, [r; z] = σ(a(x) + c(h)), r first, and n = tanh(b(x) + r ⊙ e(h)); the state after x is
  n + z ⊙ (h − n). States begin at 0. Layer i of the encoder concatenates `encoder.forwards.i`, and
  `encoder.backwards.i`, which reads from the end. The state of layer i of the decoder, `decoder.layers.i`, begins at
  the tanh of `decoder.begin.i` of the state that `encoder.backwards.i` ends with. Above the last layer stands
  attention of one head, `decoder.attention`, from its state h to the encoder's output; with what it finds, y, the
  logits are the output projection of the tanh of `decoder.combine` of [y; h]. Its inputs are √d_model
  times the embedding, too.
- The metadata has `format` "microtfm", `format_version`, `sha256` of the whole file (computed with its own 64
  characters as zeros) and `facts`, a JSON object: `kind` "export", `layout` 1, `model` (the model settings: heads, norm
  and so on), `search` (beam, length_penalty), `max_length` (source tokens of a piece, at most), `piece_length` (and
  where a line is cut at the ends of sentences), and `tokenizers`: one JSON text for both languages, or two, source and
  target, as in the tokenizer files of a run folder.

`Translator.load(file)` reads it; examples/read_export.py does with NumPy and safetensors alone.
"""
from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from microtfm import checkpoint, tokens
from microtfm.architecture import Model
from microtfm.errors import UserError
from microtfm.files import PathLike
from microtfm.run_folder import RunFolder, loaded
from microtfm.settings import ModelSettings, Settings
from microtfm.tokens import Tokenizer

LAYOUT = 1
SEARCH = ("beam", "length_penalty")


def export(folder: PathLike, out: PathLike) -> dict[str, Any]:
    """Write a run's best model as one file. Raises UserError where `out` exists, or does not end in .safetensors."""
    out = Path(out)
    if out.suffix != ".safetensors":
        raise UserError(f"--out {out}: the file's name must end in .safetensors.")
    if out.exists():
        raise UserError(f"{out} exists. Choose another --out, or remove it first.")
    run = RunFolder.open(folder)
    model, (source, target) = run.load_model(), run.tokenizers()
    settings = run.settings
    weights = model.state_dict()
    checkpoint.save(out, weights, {
        "kind": "export", "layout": LAYOUT,
        "model": {**dataclasses.asdict(settings.model), "final_norm": settings.model.ends_with_norm},
        "search": {"beam": settings.beam, "length_penalty": settings.length_penalty},
        "max_length": settings.tokens.max_length, "piece_length": settings.tokens.piece_length,
        "tokenizers": [each.to_bytes().decode() for each in ([source] if source is target else [source, target])]})
    return {"file": str(out), "bytes": out.stat().st_size, "tensors": len(weights), "parameters": model.count()}


def as_text(answer: dict[str, Any]) -> str:
    """The same for a person."""
    return (f"wrote   {answer['file']}: {answer['parameters']:,} parameters in {answer['tensors']} tensors, "
            f"{answer['bytes']:,} bytes\nnext    microtfm translate {answer['file']}")


def load(path: Path) -> tuple[Model, Tokenizer, Tokenizer, Settings]:
    """The model, in eval mode, its tokenizers and settings. Raises UserError for a file that `export` did not write."""
    found = checkpoint.load(path)
    facts = found.facts
    if facts.get("kind") != "export":
        raise UserError(f"{path} is a part of a run folder. Give the folder, or a file that microtfm export wrote.")
    if facts.get("layout") != LAYOUT:
        raise UserError(f"{path} has layout {facts.get('layout')!r}; this microtfm reads {LAYOUT}.")
    texts, where = facts.get("tokenizers"), f"The tokenizer in {path}"
    if not isinstance(texts, list) or len(texts) not in (1, 2) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{path} holds no tokenizers.")
    tokenizers = [tokens.from_bytes(text.encode(errors="replace"), where) for text in texts]
    settings = Settings.from_dict({"model": facts.get("model", {}), **_table(facts.get("search")),
                                   "tokens": {"max_length": facts.get("max_length", 100), "joint": len(texts) == 1,
                                              "piece_length": facts.get("piece_length")}},
                                  str(path))
    model = loaded(found.arrays, _without_dropout(settings.model), tokenizers[0], tokenizers[-1], path)
    return model, tokenizers[0], tokenizers[-1], settings


def _table(value: Any) -> dict[str, Any]:
    return {name: value for name, value in value.items() if name in SEARCH} if isinstance(value, dict) else {}


def _without_dropout(model: ModelSettings) -> ModelSettings:
    return dataclasses.replace(model, dropout=0.0, inner_dropout=0.0)
