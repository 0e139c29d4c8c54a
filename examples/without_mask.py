"""What the causal mask is for: without it the model reads the answer, learns to copy it, and cannot translate.

The same model is trained twice on the same sentences, once with the decoder's mask and once without. Without it, the
token to be predicted stands in plain sight at the next position, so the loss falls to almost nothing; but where a
translation is to be written there is no next position to look at.
"""
import sys

import engine
from microtfm import ModelSettings, TrainSettings, Transformer, data, decode, tokens, toy
from microtfm.attention import MultiHeadAttention
from microtfm.evaluate import score
from microtfm.fitting import fit

SHORT = "--short" in sys.argv
learn, unseen = toy.corpus(n=4000, held_out=100, seed=0)
chinese, _ = tokens.train("word", [zh for zh, _ in learn], size=2000)
english, _ = tokens.train("word", [en for _, en in learn], size=2000)
ids, _ = data.encode(learn, chinese, english)


class Unmasked(MultiHeadAttention):
    """Self-attention that sees every position, the future too."""

    def forward(self, x, mask=None, causal=False):
        return super().forward(x, mask, causal=False)


def trained(masked):
    """The loss at the end, and the translations of the unseen sentences, written token by token."""
    engine.seed(0)
    settings = ModelSettings(d_model=64, heads=4, layers=2, ffn=256, dropout=0.0, tie="output")
    model = Transformer(settings, len(chinese), len(english))
    if not masked:
        for layer in model.decoder.layers:
            layer.self_attention.__class__ = Unmasked
    losses = fit(model, ids, TrainSettings(steps=5 if SHORT else 350, batch_tokens=800, lr=0.004, warmup=100,
                                           label_smoothing=0.0))
    source = data.pad_sources([chinese.encode(zh) for zh, _ in unseen])
    return sum(losses[-5:]) / 5, [english.decode(each) for each in decode.greedy(model, source, cache=False)]


references = [en for _, en in unseen]
found = {}
for masked in (True, False):
    loss, said = trained(masked)
    found[masked] = loss, score(said, references).bleu
    print(f"{'with' if masked else 'without'} the mask: loss {loss:.3f}, BLEU {found[masked][1]:5.1f}   "
          f"{unseen[0][0]}  ->  {said[0]}  [{references[0]}]")
if not SHORT:
    assert found[False][0] < found[True][0] / 2, "the answer in plain sight makes the loss smaller"
    assert found[False][1] < found[True][1] / 2, "and the translations worse"
