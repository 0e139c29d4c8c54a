"""Where a training step broke down: it is done again, op by op, until a number is not finite."""
from __future__ import annotations

from collections.abc import Sequence

import engine
from microtfm.data import Batch
from microtfm.learner import Learner


def place(learner: Learner, batches: Sequence[Batch], randomness: dict[str, int]) -> str:
    """One sentence: the op and the module that made the first number that is not finite, forward or backward.

    `randomness` is the state of the random numbers before the step, whose weights have not changed since. The
    gradients are left cleared.
    """
    now = engine.random.get_state()
    engine.random.set_state(randomness)
    try:
        for number, batch in enumerate(batches, 1):
            found = _first(learner, batch)
            if found is not None:
                of = f" (batch {number} of {len(batches)})" if len(batches) > 1 else ""
                return f"The first numbers that are not finite{of} are {found}."
    finally:
        learner.forget()
        engine.random.set_state(now)
    return "Every loss and every gradient by itself is finite: their sum is too large for float32."


def _first(learner: Learner, batch: Batch) -> str | None:
    with engine.observe(times=False):
        source, target_in, target_out = learner.arrays(batch)
        loss = learner.backward(engine.Tensor(source, name="source"), engine.Tensor(target_in, name="target_in"),
                                engine.Tensor(target_out))
    for box in engine.graph(loss, backward=True).boxes:
        if box.seen is not None and not box.seen.finite:
            if box.kind == "parameter":
                return f"in the parameter {box.name}"
            phase = "backward" if box.column else "forward"
            return f"made by {box.label} ({phase}) in {'/'.join(box.path) or 'the loss'}"
    return None
