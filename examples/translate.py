"""A Chinese-English translator in library calls: text, vocabulary, model, training, translation, score.

`python examples/translate.py FILE.svg` also draws what the model attends to while it translates a sentence.
"""
import sys

import engine
from microtfm import ModelSettings, Transformer, Translator, data, tokens, toy
from microtfm.attention_map import attention_svg
from microtfm.evaluate import score
from microtfm.loss import translation_loss
from microtfm.optim import Adam, global_norm, rate

STEPS, PEAK, WARMUP, BATCH_TOKENS, SEED = 500, 0.004, 100, 800, 0

# Text: pairs of sentences, and some that stay unseen.
learn, unseen = toy.corpus(n=8000, held_out=200, seed=SEED)
chinese, _ = tokens.train("word", [zh for zh, _ in learn], size=2000)
english, _ = tokens.train("word", [en for _, en in learn], size=2000)
ids, _ = data.encode(learn, chinese, english)

# Model: the paper's, in small.
engine.seed(SEED)
settings = ModelSettings(d_model=64, heads=4, layers=2, ffn=256, dropout=0.0, tie="output")
model = Transformer(settings, len(chinese), len(english))
optimiser = Adam(model.named_parameters(), lr=PEAK)
print(f"{len(learn):,} pairs, {model.count():,} parameters")

# Training: each step, a batch forward, its loss backward, one update.
step = epoch = 0
while step < STEPS:
    for rows in data.batches(data.lengths(ids), BATCH_TOKENS, SEED, epoch)[:STEPS - step]:
        batch = data.batch(ids, rows)
        loss = translation_loss(model(batch.source, batch.target_in), engine.Tensor(batch.target_out), 0.1)
        loss.backward()
        step += 1
        optimiser.step(rate("inverse-sqrt", step, PEAK, WARMUP, settings.d_model),
                       norm=global_norm(model.parameters()), clip_norm=1.0)
        model.zero_grad()
        if step % 50 == 0:
            print(f"step {step:4}  loss {loss.item():.3f}")
    epoch += 1

# Translation of what it has never seen.
translator = Translator(model, chinese, english)
translations = translator.translate([zh for zh, _ in unseen])
for (zh, en), said in list(zip(unseen, translations, strict=True))[:5]:
    print(f"{zh}  ->  {said}  [{en}]")
scores = score(translations, [en for _, en in unseen])
print(f"BLEU {scores.bleu:.1f}, {scores.exact_match:.0%} exactly right")
assert scores.bleu > 80, scores.bleu
if len(sys.argv) > 1:
    attention_svg(*translator.attention("他们不喜欢我喜欢的椅子。"), sys.argv[1])
