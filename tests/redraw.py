"""The golden files of a one-layer model, and how to write them and the pictures again: python tests/redraw.py"""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from engine import Tensor, graph, shapes_only
from microtfm import Transformer
from microtfm.loss import translation_loss
from microtfm.settings import ModelSettings

ROOT = Path(__file__).parent.parent
EXAMPLES = ("scalar", "curvature", "draw_backprop", "draw_inputs", "draw_diff", "draw_failure")


def primes(**changes):
    """A one-layer model whose sizes are all different, on shapes alone, and the loss of one batch."""
    settings = {"d_model": 22, "heads": 2, "layers": 1, "ffn": 13, "dropout": 0.1, "tie": "none", **changes}
    with shapes_only():
        model = Transformer(ModelSettings(**settings), 17, 17)
        ids = [Tensor.placeholder((3, length), np.int64) for length in (5, 7, 7)]
        return model, translation_loss(model(ids[0], ids[1]), ids[2], label_smoothing=0.1)


GOLDEN = {"one_layer.json": lambda g: g.json(), "one_layer.dot": lambda g: g.dot(depth=3),
          "one_layer.txt": lambda g: g.table() + "\n"}


def golden(name):
    """The text that a golden file must have."""
    return GOLDEN[name](graph(primes()[1], backward=True))


def pictures(folder):
    """Run the examples that draw; they write their pictures into the folder."""
    for name in EXAMPLES:
        subprocess.run([sys.executable, str(ROOT / "examples" / f"{name}.py"), str(folder)], cwd=ROOT, check=True,
                       capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)})


if __name__ == "__main__":
    for name in GOLDEN:
        (ROOT / "tests" / "golden" / name).write_text(golden(name), encoding="utf-8")
    pictures(ROOT / "examples" / "pictures")
