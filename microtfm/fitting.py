"""Training in memory, without a run folder: for experiments, notebooks and examples."""
from __future__ import annotations

from collections.abc import Callable, Sequence

from microtfm import data
from microtfm.architecture import Model
from microtfm.learner import Learner
from microtfm.optim import Adam, rate
from microtfm.settings import DEFAULT_STEPS, TrainSettings


def fit(model: Model, pairs: Sequence[tuple[list[int], list[int]]], settings: TrainSettings, seed: int = 0,
        told: Callable[[int, float], None] = lambda step, loss: None) -> list[float]:
    """Train a model on pairs of ids (`data.encode`) and leave it in eval mode. Returns the loss a token of each update.

    Of the settings, steps, batch_tokens, lr, warmup, schedule, cooldown, label_smoothing and clip_norm count. seed: of
    the order of the batches; the weights and dropout follow `engine.seed`. told: is called after each update with its
    number and loss. A loss that is not finite ends it, and is the last.
    """
    learner = Learner(model, Adam(model.named_parameters(), settings.lr), settings)
    sizes, losses, epoch = data.lengths(pairs), list[float](), 0
    steps = settings.steps or DEFAULT_STEPS
    model.train()
    while len(losses) < steps:
        for rows in data.batches(sizes, settings.batch_tokens, seed, epoch)[:steps - len(losses)]:
            batch = data.batch(pairs, rows)
            lr = rate(settings.schedule, len(losses) + 1, settings.lr, settings.warmup, model.settings.d_model, steps,
                      settings.cooldown)
            total, norm = learner([batch], lr, batch.tokens)
            losses.append(total / batch.tokens)
            told(len(losses), losses[-1])
            if not abs(total) + norm < float("inf"):
                model.eval()
                return losses
        epoch += 1
    model.eval()
    return losses
