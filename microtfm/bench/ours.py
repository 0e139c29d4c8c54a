"""Our side of `bench step`."""
from __future__ import annotations

from typing import Any

import engine
from engine import Tensor
from microtfm.bench.sizes import Size
from microtfm.bench.stepping import BETAS, CLIP, EPSILON, LEARNING_RATE, SMOOTHING, Stepper
from microtfm.learner import tensors_in
from microtfm.loss import translation_loss
from microtfm.optim import Adam, global_norm
from microtfm.settings import ModelSettings
from microtfm.transformer import Transformer


def transformer(size: Size) -> Transformer:
    """The model of a size, with seed 0."""
    engine.seed(0)
    settings = ModelSettings(d_model=size.d_model, heads=size.heads, layers=size.layers, ffn=size.ffn,
                             dropout=size.dropout, inner_dropout=size.dropout, final_norm=True, tie="none")
    return Transformer(settings, size.vocabulary, size.vocabulary)


class OurStep(Stepper):
    """`Transformer`, `translation_loss`, `backward`, `global_norm`, `Adam`: what training runs, replayed or not."""

    def __init__(self, *, replay: bool = True, **size: Any) -> None:
        self.replay = replay
        super().__init__(**size)

    def build(self) -> None:
        self.model = transformer(self.size)
        self.parameters = self.model.parameters()
        self.adam = Adam(self.model.named_parameters(), LEARNING_RATE, BETAS, EPSILON)
        self.update = (engine.replay if self.replay else tensors_in)(self.whole_step)

    def count(self) -> int:
        return self.model.count()

    def train_on(self, batch: int) -> float:
        return float(self.update(*self._batches[batch]).item())

    def whole_step(self, source: Any, target_in: Any, target_out: Any) -> Tensor:
        """Forward, loss, backward, clipping, Adam. Returns the loss."""
        loss = translation_loss(self.model(source, target_in), target_out, SMOOTHING)
        self.backward(loss)
        self.learn()
        return loss

    def backward(self, loss: Tensor) -> None:
        """The gradients of all parameters."""
        loss.backward()

    def learn(self) -> None:
        """Clip and step."""
        self.adam.step(norm=global_norm(self.parameters), clip_norm=CLIP)
        self.model.zero_grad()
