"""One update of a model: forward, backward, clipping and the optimiser's step, recorded once and replayed."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import engine
from engine import Tensor
from microtfm.architecture import Model
from microtfm.data import Batch
from microtfm.loss import disagreement, translation_loss
from microtfm.optim import Optimiser, global_norm
from microtfm.settings import TrainSettings


class Learner:
    """`learner(batches, lr, tokens)` updates the model from one batch or several, whose losses are summed.

    The gradient is divided once by the number of tokens of all batches, so that several small batches learn what one
    large one would. Where the loss or the gradient's norm is not finite, nothing is changed.
    """

    def __init__(self, model: Model, optimiser: Optimiser, settings: TrainSettings, replay: bool = True) -> None:
        self.model, self.optimiser, self.settings = model, optimiser, settings
        self.parameters = model.parameters()
        self.sums: list[Tensor] = []                     # gradients of several batches
        keep = engine.replay if replay else tensors_in
        self._learn, self._add, self._finish = keep(self._whole), keep(self._gather), keep(self._apply)

    def __call__(self, batches: Sequence[Batch], lr: float, tokens: int) -> tuple[float, float]:
        """The sum of the losses of all tokens, and the norm of its gradient."""
        with engine.default_device(self.model.device):
            self.optimiser.follow()
            return self._update(batches, lr, tokens)

    def _update(self, batches: Sequence[Batch], lr: float, tokens: int) -> tuple[float, float]:
        if len(batches) == 1:
            loss, norm = self._learn(*self.arrays(batches[0]), float(lr), tokens)
            return float(loss.item()), float(norm.item())
        self._clear()
        losses = [float(self._add(*self.arrays(batch)).item()) for batch in batches]
        return sum(losses), float(self._finish(sum(losses), float(lr), tokens).item())

    def _whole(self, source: Tensor, target_in: Tensor, target_out: Tensor, lr: Tensor, tokens: Tensor) -> tuple[
            Tensor, Tensor]:
        loss = self.backward(source, target_in, target_out)
        return loss, self._step(loss, lr, tokens)

    def arrays(self, batch: Batch) -> list[np.ndarray]:
        """What a step takes of a batch; twice over, where two predictions are drawn together. That is done here and
        not in the step, so that the ids are arguments of it, which are checked before it runs on a card."""
        given = [batch.source, batch.target_in, batch.target_out]
        return [np.concatenate([ids, ids]) for ids in given] if self.settings.consistency else given

    def backward(self, source: Tensor, target_in: Tensor, target_out: Tensor) -> Tensor:
        """The sum of a batch's losses, of what `arrays` gives; its gradients are in the parameters."""
        weight = self.settings.consistency
        logits = self.model(source, target_in)                                                     # (B, T, V)
        loss = translation_loss(logits, target_out, self.settings.label_smoothing, reduction="sum")
        if weight:
            loss = 0.5 * (loss + weight * disagreement(logits, target_out))
        loss.backward()
        return loss

    def _gather(self, source: Tensor, target_in: Tensor, target_out: Tensor) -> Tensor:
        """Add a batch's gradients to the sums."""
        loss = self.backward(source, target_in, target_out)
        engine.update("accumulate", self.sums, [p.grad for p in self.parameters if p.grad is not None])
        self.forget()
        return loss

    def _apply(self, loss: Tensor, lr: Tensor, tokens: Tensor) -> Tensor:
        """Update from the sums."""
        for p, total in zip(self.parameters, self.sums, strict=True):
            p.grad = total
        return self._step(loss, lr, tokens)

    def _step(self, loss: Tensor, lr: Tensor, tokens: Tensor) -> Tensor:
        """Clip and step; the norm of the gradient."""
        norm = global_norm(self.parameters) + loss * 0   # a loss that is not finite is seen by the optimiser, too
        self.optimiser.step(lr, norm=norm, clip_norm=self.settings.clip_norm, divisor=tokens)
        self.forget()
        return norm

    def forget(self) -> None:
        """Drop the gradients."""
        for p in self.parameters:
            p.grad = None

    def _clear(self) -> None:
        if not self.sums or self.sums[0].device != self.model.device:
            self.sums = [engine.zeros(p.shape) for p in self.parameters]
        for total in self.sums:
            total[...] = 0.0


def tensors_in(step: Callable[..., Any]) -> Callable[..., Any]:
    """The step itself, for arguments that are arrays and numbers, as a replayed one takes them."""
    return lambda *given, **fixed: step(*(Tensor(np.asarray(x)) for x in given), **fixed)
