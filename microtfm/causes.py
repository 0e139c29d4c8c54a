"""Why a run lies outside its reference: causes by the sides on which its losses and its BLEU lie, as one table."""
from __future__ import annotations

from dataclasses import dataclass

NOTHING = 0.1                            # of the BLEU that is expected at least: below it, nothing is translated


@dataclass(frozen=True)
class Row:
    """A pattern, each side one or several of low, right and high; a BLEU may be none, too. {text}: the reference's."""

    training_loss: str
    validation_loss: str
    bleu: str
    cause: str


TABLE = (                                # the first that fits holds
    # training loss   validation loss   BLEU
    Row("low",         "high",           "none",
        "The training text is learnt, and nothing of the validation text: usually sources and targets that are the "
        "same, so that copying is learnt (microtfm data check), or very little text, learnt by heart."),
    Row("right",       "high",           "none",
        "The training text is learnt as on {text}, and nothing of the validation text: usually validation files that "
        "are swapped, of another language, or not of the same lines."),
    Row("low right",   "high",           "low right high",
        "The training text is learnt, the validation text is not: usually little text, so that it is learnt by heart, "
        "or validation text of another kind."),
    Row("high",        "high",           "none low",
        "It learns less than on {text}: usually less or noisier text, misaligned lines (microtfm data check), or text "
        "that is harder."),
    Row("high",        "high",           "right high",
        "It translates no worse than on {text}, only less sure of itself: usually text that says the same in more "
        "ways."),
    Row("high",        "low right",      "none low right high",
        "The training text is harder than the validation text: usually noise or misaligned lines in it alone "
        "(microtfm data check), or easier validation sentences."),
    Row("low right",   "low right",      "none low",
        "The losses are as on {text} or better, the translations are not: usually validation text of another kind than "
        "the training text, or references that say it otherwise."),
    Row("low right",   "low right",      "right high",
        "That is better than on {text}: usually easier text, test sentences in the training text, or the same text on "
        "both sides, which is copied (microtfm data check)."),
)
COPIED = ("Sources are copied: usually training text that is the same on both sides, or in part (microtfm data check).")
EARLY = {                                # where there is only a training loss
    "high": "It learns more slowly than on {text} so far: usually text that is harder or noisier, or misaligned lines "
            "(microtfm data check).",
    "low": "It learns faster than on {text} so far: usually easier text, text that repeats itself, or the same text on "
           "both sides (microtfm data check).",
}


def cause(training_loss: str, validation_loss: str, bleu: str) -> str:
    """The usual cause, with a place for the reference's {text}.

    Sides are "low", "right" and "high"; a BLEU's is also "none". One at least is not "right".
    """
    return next(row.cause for row in TABLE if training_loss in row.training_loss.split()
                and validation_loss in row.validation_loss.split() and bleu in row.bleu.split())
