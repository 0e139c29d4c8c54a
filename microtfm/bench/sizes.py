"""The five sizes of the benchmark, their parameters and their arithmetic. Light to import."""
from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

Name = Literal["nano", "toy", "tiny", "small", "base"]


@dataclass(frozen=True)
class Size:
    """A Transformer and the batch it takes: embeddings and output projection are three separate matrices."""

    name: str
    d_model: int
    heads: int
    layers: int
    """Of the encoder, and as many of the decoder."""
    ffn: int
    vocabulary: int
    """Of each language."""
    batch: int
    """Sentences."""
    length: int
    """Tokens of each sentence, in either language."""
    dropout: float = 0.1
    """Of embeddings, attention weights, inside the feed-forward, and after each sublayer."""

    def shapes(self) -> list[tuple[int, ...]]:
        """The shape of each parameter; the output projection has no bias."""
        d, f = self.d_model, self.ffn
        attention, norm = [(d, d), (d,)] * 4, [(d,)] * 2
        feed_forward = [(d, f), (f,), (f, d), (d,)]
        encoder, decoder = attention + norm + feed_forward + norm, (attention + norm) * 2 + feed_forward + norm
        return (encoder + decoder) * self.layers + norm * 2 + [(self.vocabulary, d)] * 2 + [(d, self.vocabulary)]

    def parameters(self) -> int:
        """How many numbers learn."""
        return sum(math.prod(shape) for shape in self.shapes())

    def products(self) -> float:
        """FLOP of the matrix products of one training step, counting a multiply-add as two.

        The backward pass has two products for each of the forward pass. A causal product counts in full.
        """
        d, t = self.d_model, self.length
        layer = 12 * d * d + 4 * d * self.ffn + 3 * 2 * t * d            # of the encoder and of the decoder, a token
        return 3 * 2.0 * self.batch * t * (self.layers * layer + d * self.vocabulary)

    def changed(self, **changes: Any) -> Size:
        """The same with other numbers."""
        return dataclasses.replace(self, **changes)

    def plain(self) -> dict[str, Any]:
        """As plain values, from which `Size(**values)` makes it again."""
        return dataclasses.asdict(self)


SIZES: dict[str, Size] = {size.name: size for size in (
    Size("nano", 32, 4, 2, 64, 200, 32, 10),
    Size("toy", 64, 4, 2, 256, 1000, 64, 12),
    Size("tiny", 128, 4, 4, 256, 4000, 64, 16),
    Size("small", 256, 4, 3, 1024, 8000, 64, 20),
    Size("base", 512, 8, 6, 2048, 16000, 16, 32),
)}
TOY = SIZES["nano"].changed(batch=2, length=4, layers=1)         # what a simulated card does in seconds
