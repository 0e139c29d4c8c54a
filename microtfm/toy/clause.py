"""A clause in two languages: one meaning, said in Chinese word order and in English word order.

Chinese puts time, company and place before the verb and a relative clause before its noun; English puts them after.
Chinese verbs never change; English ones agree with their subject and carry the tense. Both are made here from one
record, so that a Chinese sentence has exactly one English translation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from microtfm.toy.lexicon import Noun, Pair, Verb

NOTHING = Pair("", "")
BE = {"I": "am", "you": "are", "he": "is"}


class Phrase(NamedTuple):
    """A noun phrase: `en` as subject, `obj` as object, `agree` the pronoun whose verb form it takes (I, you, he)."""

    zh: str
    en: str
    obj: str
    agree: str = "he"


@dataclass(frozen=True)
class Clause:
    """Who does what, when, and where or how. `tense` is one of the keys of AUXILIARY."""

    subject: Phrase
    verb: Verb
    tense: str
    object: Pair = NOTHING
    negative: bool = False
    adverb: Pair = NOTHING
    time: Pair = NOTHING
    adjunct: Pair = NOTHING


# What stands before the Chinese verb: affirmative and negative.
AUXILIARY = {
    "habit": ("", "不"),
    "past": ("", "没"),
    "future": ("会", "不会"),
    "now": ("正在", ""),
    "want": ("想", "不想"),
    "should": ("应该", "不应该"),
    "must": ("必须", ""),
    "can": ("可以", ""),
}


def join(*parts: str) -> str:
    """Words and phrases with one space between them, leaving out the empty ones."""
    return " ".join(part for part in parts if part)


def article(phrase: str) -> str:
    """The phrase with `a` or `an` before it."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def sentence(zh: str, en: str, mark: str = "。") -> Pair:
    """Capital letter and closing mark, 。 or ？."""
    return Pair(zh + mark, en[0].upper() + en[1:] + {"。": ".", "？": "?"}[mark])


def chinese(clause: Clause, *, reason: str = "", within: bool = False) -> str:
    """The clause in Chinese; `reason` is 为什么, and `within` a relative clause the past has no 了."""
    auxiliary = AUXILIARY[clause.tense][clause.negative]
    if clause.verb.zh == "有" and clause.negative:
        auxiliary = "没"
    adjunct = clause.adjunct.zh
    if clause.tense == "now" and adjunct.startswith("在"):
        adjunct = adjunct[1:]                                   # 正在 + 在公园 is 正在公园
    done = "了" if clause.tense == "past" and not clause.negative and not within else ""
    before = (clause.subject.zh, clause.time.zh, reason, clause.adverb.zh, auxiliary, adjunct)
    return "".join((*before, clause.verb.zh, done, clause.object.zh))


def verb_group(clause: Clause, *, expanded: bool) -> tuple[str, str]:
    """The English auxiliary and main verb; `expanded` brings in `do`, which negation and questions need."""
    verb, agree = clause.verb, clause.subject.agree
    third = agree == "he"
    match clause.tense:
        case "now":
            return BE[agree], verb.ing
        case "past":
            return ("did", verb.plain) if expanded else ("", verb.past)
        case "habit" if not expanded:
            return "", verb.third if third else verb.plain
        case "want" if not expanded:
            return "", f"{'wants' if third else 'want'} to {verb.plain}"
        case "habit" | "want":
            return "does" if third else "do", f"want to {verb.plain}" if clause.tense == "want" else verb.plain
        case "future":
            return "will", verb.plain
    return clause.tense, verb.plain                             # should, must, can


def english(clause: Clause) -> str:
    """The clause as an English statement without capital letter and full stop."""
    auxiliary, main = verb_group(clause, expanded=clause.negative)
    negation = "not" if clause.negative else ""
    return join(clause.subject.en, auxiliary, negation, clause.adverb.en, main, tail(clause))


def inverted(clause: Clause, question: str = "") -> str:
    """The clause as an English question: `did he buy a book`, `what did he buy`."""
    auxiliary, main = verb_group(clause, expanded=True)
    negation = "not" if clause.negative else ""
    return join(question, auxiliary, clause.subject.en, negation, clause.adverb.en, main, tail(clause))


def tail(clause: Clause) -> str:
    """What follows the English verb: object, adjunct, time."""
    return join(clause.object.en, clause.adjunct.en, clause.time.en)


def relative(noun: Noun, clause: Clause) -> Phrase:
    """`我昨天买的书`, `the book that I bought yesterday`: the noun is the object that the clause lacks."""
    en = f"the {noun.one} that {english(clause)}"
    return Phrase(f"{chinese(clause, within=True)}的{noun.zh}", en, en)


def relative_subject(noun: Noun, clause: Clause) -> Phrase:
    """`正在唱歌的女孩`, `the girl who is singing`: the noun is the subject that the clause lacks."""
    gap = replace(clause, subject=Phrase("", "who", "who"))
    en = f"the {noun.one} {english(gap)}"
    return Phrase(f"{chinese(gap)}的{noun.zh}", en, en)
