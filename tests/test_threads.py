"""The same bits for one thread, two or eight: whole training steps, in processes of their own."""
from __future__ import annotations

import os
import subprocess
import sys

import pytest

from engine.kernels.cpu import jit_disabled

STEPS = """
import hashlib
import numpy as np
import engine
from microtfm.loss import translation_loss
from microtfm.optim import Adam, global_norm
from microtfm.settings import ModelSettings
from microtfm.transformer import Transformer

engine.seed(7)
model = Transformer(ModelSettings(d_model=64, heads=4, layers=1, ffn=256, dropout=0.1, inner_dropout=0.1), 900, 900)
optimiser = Adam(model.named_parameters(), lr=0.003)
rng = np.random.default_rng(0)
digest = hashlib.sha256()
for _ in range(3):
    source, target = rng.integers(4, 900, (48, 11)), rng.integers(4, 900, (48, 13))
    source[::3, 8:] = 0
    loss = translation_loss(model(source, target[:, :-1]), engine.Tensor(target[:, 1:]), 0.1)
    loss.backward()
    optimiser.step(norm=global_norm(model.parameters()), clip_norm=1.0)
    model.zero_grad()
    digest.update(loss.numpy().tobytes())
for array in model.state_dict().values():
    digest.update(array.tobytes())
print(digest.hexdigest())
"""


@pytest.mark.skipif(jit_disabled(), reason="without kernels there are no threads of ours")
def test_training_steps_have_the_same_bits_for_any_number_of_threads() -> None:
    found = {}
    for threads in ("1", "2", "8"):
        ran = subprocess.run([sys.executable, "-c", STEPS], env={**os.environ, "NUMBA_NUM_THREADS": threads},
                             capture_output=True, text=True, check=True)
        found[threads] = ran.stdout.strip()
    assert len(set(found.values())) == 1, found
    assert len(found["1"]) == 64
