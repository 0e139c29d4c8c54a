"""How good the model is on text that it does not learn from: loss, BLEU, chrF, and a few sentences to read."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import engine
from microtfm import evaluate
from microtfm.architecture import Model
from microtfm.diagnosis import Finding, diagnose
from microtfm.events import Sample
from microtfm.loss import translation_loss
from microtfm.material import Material
from microtfm.settings import Settings
from microtfm.translator import Translator

SAMPLES = 3


@dataclass(frozen=True)
class Validation:
    """Scores by the names of metrics.jsonl, and translations to look at."""

    metrics: dict[str, Any]
    samples: list[Sample]
    findings: list[Finding]              # what stands out in the translations


def validate(model: Model, material: Material, settings: Settings,
             interrupted: Callable[[], bool] = lambda: False) -> Validation | None:
    """The loss over all validation pairs, smoothed as in training so that the two compare, and the scores of greedy
    translations of a sample of them. Returns None as soon as `interrupted()` is true. Leaves the model in eval mode.
    """
    model.eval()
    loss = _loss(model, material, settings, interrupted)
    if loss is None:
        return None
    translator = Translator(model, material.source, material.target, settings.tokens.max_length,
                            piece_length=settings.tokens.piece_length)
    translations = [""] * len(material.sentences)
    for index, text in translator.each([a for a, _ in material.sentences]):
        translations[index] = text
        if interrupted():
            return None
    scores = evaluate.score(translations, [b for _, b in material.sentences])
    metrics = {"valid_loss": loss, "bleu": scores.bleu, "chrf": scores.chrf, "exact_match": scores.exact_match,
               "sentences": scores.sentences, "bleu_signature": scores.bleu_signature,
               "chrf_signature": scores.chrf_signature}
    samples = [Sample(*pair, text) for pair, text in zip(material.sentences, translations, strict=True)]
    findings = diagnose(*([getattr(each, name) for each in samples] for name in ("source", "translation", "reference")))
    return Validation(metrics, _chosen(samples), findings)


def _loss(model: Model, material: Material, settings: Settings, interrupted: Callable[[], bool]) -> float | None:
    total, count = 0.0, 0
    with engine.no_grad():
        for batch in material.valid_batches(settings):
            target = engine.Tensor(batch.target_out, device=model.device)
            loss = translation_loss(model(batch.source, batch.target_in), target, settings.train.label_smoothing,
                                    reduction="sum")
            total += float(loss.item())
            count += batch.tokens
            if interrupted():
                return None
    return total / count


def _chosen(samples: list[Sample]) -> list[Sample]:
    """Always the same few, of middling length: as telling as they are short."""
    middling = sorted(range(len(samples)), key=lambda i: (len(samples[i].source), i))[len(samples) // 2:]
    return [samples[i] for i in middling[:SAMPLES]]
