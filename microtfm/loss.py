"""What training minimises."""
from __future__ import annotations

import engine
from engine import Tensor
from microtfm.axes import IDS
from microtfm.transformer import PAD


def translation_loss(logits: Tensor, target: Tensor, label_smoothing: float = 0.0, reduction: str = "mean") -> Tensor:
    """Cross-entropy of target ids (B, T) under logits (B, T, V) with label smoothing (§5.4); padding counts for
    nothing.

    reduction: "mean" over real tokens, "sum" over them, or "none" (B, T).
    """
    target.name, target.axes = target.name or "next tokens", target.axes or (IDS["next"] if target.ndim == 2 else None)
    with engine.scope("loss"):
        loss = engine.cross_entropy(logits, target, ignore_index=PAD, label_smoothing=label_smoothing,
                                    reduction=reduction)
    loss.name = "loss"
    return loss


def disagreement(logits: Tensor, target: Tensor) -> Tensor:
    """How far apart two predictions of the same tokens are, which differ by their dropout (R-Drop, Liang et al. 2021,
    equation 2): (KL(p|q) + KL(q|p)) / 2, summed over real tokens.

    logits: (2B, T, V), one prediction behind the other; target: the ids (2B, T) that tell padding.
    """
    rows, length, size = logits.shape
    with engine.scope("disagreement"):
        log_p = engine.log_softmax(logits).reshape(2, rows // 2, length, size)
        apart = (engine.exp(log_p) * (log_p - log_p.mean(0, keepdims=True))).sum(-1)               # (2, B, T)
        real = engine.where(target.reshape(2, rows // 2, length) == PAD, 0.0, 1.0)
        return (apart * real).sum()
