"""One training step of a Transformer, forward and backward, drawn at four levels from the running code."""
import sys
from pathlib import Path

import numpy as np

from engine import Tensor, graph, shapes_only
from microtfm import Transformer
from microtfm.loss import translation_loss
from microtfm.settings import ModelSettings

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures"

with shapes_only():                      # nothing is computed: the record needs shapes alone
    model = Transformer(ModelSettings(d_model=128, heads=4, layers=6, ffn=512, tie="output"), 8000, 6000)
    source, target, following = (Tensor.placeholder((64, length), np.int64) for length in (14, 12, 12))
    loss = translation_loss(model(source, target), following, label_smoothing=0.1)

step = graph(loss, backward=True)
step.save(folder / "transformer.svg", depth=2, title="a training step, folded")
step.save(folder / "layer.svg", inside="decoder/layers.0", depth=0, title="a decoder layer")
step.save(folder / "attention_block.svg", inside="decoder/layers.0/cross_attention", depth=0,
          title="cross-attention, forward and backward")
step.memory().save(folder / "memory.svg", title="memory over a training step")
unfused = graph(loss, backward=True, unfused=True)
unfused.save(folder / "attention_ops.svg", title="attention, every op of its meaning",
             inside="decoder/layers.0/cross_attention/cross_attention")

assert step.parameters == unfused.parameters == model.count()
print(f"{len(step.boxes):,} boxes, {len(unfused.boxes):,} unfused, {step.parameters:,} parameters; drawn in {folder}")
