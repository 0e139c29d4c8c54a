"""PyTorch's side of `bench step`: its own nn.Transformer, run eagerly."""
from __future__ import annotations

import math
import os
import warnings
from typing import Any

import torch
from torch import nn

from microtfm.bench.sides import PRECISION, on_card
from microtfm.bench.sizes import Size
from microtfm.bench.stepping import BETAS, CLIP, EPSILON, LEARNING_RATE, SMOOTHING, Stepper
from microtfm.errors import UserError
from microtfm.layers import sinusoids


def use_threads() -> None:
    """As many threads as the environment says, if it says."""
    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def device() -> torch.device:
    """Where the comparison takes place. UserError where that is a card which this PyTorch cannot use."""
    if on_card():
        if not torch.cuda.is_available():
            raise UserError(f"this PyTorch ({torch.__version__}) cannot use the card. Install one that is built for "
                            "CUDA, or leave --peer out")
        torch.backends.cuda.matmul.allow_tf32 = os.environ.get(PRECISION) == "tf32"
        return torch.device("cuda")
    return torch.device("cpu")


def autocast(place: torch.device) -> Any:
    """Products in bfloat16, where the comparison is about them."""
    enabled = place.type == "cuda" and os.environ.get(PRECISION) == "bf16"
    return torch.autocast(place.type, torch.bfloat16, enabled=enabled)


class TorchTransformer(nn.Module):
    """Embeddings with sinusoidal positions around nn.Transformer: post-norm, a final norm on each stack, ReLU."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        d, v = size.d_model, size.vocabulary
        self.source_embedding, self.target_embedding = nn.Embedding(v, d), nn.Embedding(v, d)
        with warnings.catch_warnings(action="ignore", category=UserWarning):       # about nested tensors
            self.transformer = nn.Transformer(d, size.heads, size.layers, size.layers, size.ffn, size.dropout,
                                              batch_first=True)
        self.projection = nn.Linear(d, v, bias=False)
        self.dropout = nn.Dropout(size.dropout)
        self.scale = math.sqrt(d)
        self.register_buffer("positions", torch.from_numpy(sinusoids(size.length, d)), persistent=False)
        self.register_buffer("causal", nn.Transformer.generate_square_subsequent_mask(size.length), persistent=False)

    def embed(self, ids: torch.Tensor, embedding: nn.Embedding) -> torch.Tensor:
        """Ids (B, T) as vectors (B, T, D) that know their positions."""
        return self.dropout(embedding(ids) * self.scale + self.positions)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Logits (B, T, V). There is no padding, so there is no padding mask, which would cost time."""
        x, y = self.embed(source, self.source_embedding), self.embed(target, self.target_embedding)
        return self.projection(self.transformer(x, y, tgt_mask=self.causal, tgt_is_causal=True))


class TorchStep(Stepper):
    """The same step in PyTorch: fused Adam, gradients set to None."""

    def build(self) -> None:
        use_threads()
        torch.manual_seed(0)
        self.place = device()
        self.model = TorchTransformer(self.size).to(self.place)
        self.loss: Any = self.forward_loss
        self.parameters = list(self.model.parameters())
        self.adam = torch.optim.Adam(self.parameters, LEARNING_RATE, BETAS, EPSILON, fused=True)
        self._tensors: list[Any] = [
            tuple(torch.from_numpy(ids).to(self.place) for ids in batch) for batch in self._batches]

    def count(self) -> int:
        return sum(p.numel() for p in self.parameters)

    def train_on(self, batch: int) -> float:
        source, target_in, target_out = self._tensors[batch]
        self.adam.zero_grad(set_to_none=True)
        loss = self.loss(source, target_in, target_out)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.adam.step()
        return loss.item()

    def forward_loss(self, source: torch.Tensor, target_in: torch.Tensor, target_out: torch.Tensor) -> torch.Tensor:
        """The loss, in the precision of the comparison."""
        with autocast(self.place):
            logits = self.model(source, target_in)
        return nn.functional.cross_entropy(logits.float().flatten(0, 1), target_out.flatten(),
                                           label_smoothing=SMOOTHING)


class TorchCompiledStep(TorchStep):
    """The same, forward and backward compiled and captured as CUDA graphs where there is a card."""

    def build(self) -> None:
        super().build()
        mode = "reduce-overhead" if self.place.type == "cuda" else "default"
        self.loss = torch.compile(self.forward_loss, mode=mode)
