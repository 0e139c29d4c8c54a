"""Our side of `bench decode`."""
from __future__ import annotations

from microtfm.bench.decoding_timing import Decoding, Ids
from microtfm.bench.ours import transformer
from microtfm.decode import beam, greedy
from microtfm.tokens import EOS


class OurDecoding(Decoding):
    """`decode.greedy` and `decode.beam`, as the translator calls them."""

    def build(self) -> None:
        self.model = transformer(self.size)
        self.model.eval()
        assert self.model.projection is not None
        self.model.projection.weight[:, EOS] = 0.0

    def translate(self) -> Ids:
        if self.beam > 1:
            return beam(self.model, self.source, self.beam, max_length=self.size.length)
        return greedy(self.model, self.source, self.size.length)
