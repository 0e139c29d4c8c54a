"""Our side of `bench step`."""
from __future__ import annotations

import engine
from engine import Tensor
from microtfm.bench.sizes import Size
from microtfm.bench.stepping import BETAS, CLIP, EPSILON, LEARNING_RATE, SMOOTHING, Stepper
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
    """`Transformer`, `translation_loss`, `backward`, `global_norm`, `Adam`: what training runs."""

    def build(self) -> None:
        self.model = transformer(self.size)
        self.parameters = self.model.parameters()
        self.adam = Adam(self.model.named_parameters(), LEARNING_RATE, BETAS, EPSILON)

    def count(self) -> int:
        return self.model.count()

    def train_on(self, batch: int) -> float:
        source, target_in, target_out = self._batches[batch]
        self.model.zero_grad()
        loss = translation_loss(self.model(source, target_in), Tensor(target_out), SMOOTHING)
        self.backward(loss)
        self.update()
        return float(loss.item())

    def backward(self, loss: Tensor) -> None:
        """The gradients of all parameters."""
        loss.backward()

    def update(self) -> None:
        """Clip and step."""
        norm = global_norm(self.parameters)
        self.adam.step(scale=min(1.0, CLIP / max(norm, 1e-12)))
