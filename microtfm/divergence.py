"""Whether a run has diverged: its losses are well above what they were before, and its translations are worse."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from microtfm.metrics import SMOOTHED

TRAINING, BOTH = 0.2, 0.5                # nats a token: so much more training loss, and with the validation loss's rise
LOST = 0.5                               # of the best BLEU, what is left at most


def diverged(lines: Sequence[dict[str, Any]]) -> str | None:
    """What rose, in words, or None. lines: of metrics.jsonl, up to a validation.

    Where text is learnt by heart the validation loss rises alone; where a run diverges the training loss rises too.
    """
    checks = [line for line in lines if "valid_loss" in line]
    losses = [line["loss"] for line in lines if "loss" in line]
    if not checks or len(losses) <= SMOOTHED:
        return None
    means = [sum(losses[i - SMOOTHED:i]) / SMOOTHED for i in range(SMOOTHED, len(losses) + 1)]
    now, best = checks[-1], min(line["valid_loss"] for line in checks)
    rise, also = means[-1] - min(means), now["valid_loss"] - best
    if rise < TRAINING or rise + also < BOTH or now["bleu"] > LOST * max(line["bleu"] for line in checks):
        return None
    besides = f", the validation loss from {best:.3g} to {now['valid_loss']:.3g}" if also > 0 else ""
    return f"The training loss has risen from {min(means):.3g} to {means[-1]:.3g}{besides}"
