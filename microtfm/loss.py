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
