"""Somebody who draws words from the lexicon and makes phrases and clauses of them, in both languages at once."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

from microtfm.toy import lexicon
from microtfm.toy.clause import NOTHING, Clause, Phrase, article, relative_subject
from microtfm.toy.clause import relative as relative_object
from microtfm.toy.lexicon import Adjective, Noun, Pair, Place, Verb

Item = TypeVar("Item")

NOUNS = lexicon.nouns()
VERBS = lexicon.verbs(lexicon.VERBS)
STATIVES = lexicon.verbs(lexicon.STATIVES)
ACTIVITIES = lexicon.verbs(lexicon.ACTIVITIES)
GO = Verb("去", "go", "goes", "went", "going", "", "")
PLACES = tuple(Place(*row) for row in lexicon.rows(lexicon.PLACES))
ADJECTIVES = tuple(Adjective(*row) for row in lexicon.rows(lexicon.ADJECTIVES))
SPOTS = tuple((Pair(zh, en), kinds) for zh, en, kinds in lexicon.rows(lexicon.SPOTS))
PRONOUNS = tuple(Phrase(zh, en, obj, agree) for zh, en, obj, _, agree in lexicon.rows(lexicon.PRONOUNS))
POSSESSIVES = tuple(Pair(zh, own) for zh, _, _, own, _ in lexicon.rows(lexicon.PRONOUNS))
NAMES = tuple(Phrase(zh, en, en) for zh, en in lexicon.pairs(lexicon.NAMES))
KIN = lexicon.pairs(lexicon.KIN)
NUMBERS = lexicon.pairs(lexicon.NUMBERS)
TIMES = {
    "past": lexicon.pairs(lexicon.PAST),
    "future": lexicon.pairs(lexicon.FUTURE),
    "habit": lexicon.pairs(lexicon.HABITS),
}
ADVERBS = lexicon.pairs(lexicon.ADVERBS)
RIDES = lexicon.pairs(lexicon.RIDES)


class Speaker:
    """Draws phrases and clauses with a seeded generator: the same seed says the same on any machine."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed).random       # random() alone is promised never to change

    def pick(self, items: Sequence[Item]) -> Item:
        """One of the items, all equally likely."""
        return items[int(self.random() * len(items))]

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.random() < probability

    # ---- noun phrases

    def noun(self, kinds: str, *, counted: bool = False) -> Noun:
        """A noun of one of the kinds; `counted` leaves out those counted by a vessel (a cup of tea)."""
        fitting = [n for n in NOUNS if set(n.kinds) & set(kinds) and not (counted and n.contained)]
        return self.pick(fitting)

    def person(self, *, asked: bool = False) -> Phrase:
        """A subject that acts; `asked` leaves out the first person, which seldom asks about itself."""
        draw = self.random()
        if draw < 0.5:
            return self.pick([p for p in PRONOUNS if not (asked and p.zh.startswith("我"))])
        if draw < 0.65:
            return self.pick(NAMES)
        if draw < 0.8:
            return self.relation()
        return self.demonstrative(self.noun("Q"))

    def relation(self) -> Phrase:
        """`我妈妈`, my mother."""
        owner, kin = self.pick(POSSESSIVES), self.pick(KIN)
        en = f"{owner.en} {kin.en}"
        return Phrase(owner.zh + kin.zh, en, en)

    def adjective(self, noun: Noun) -> Adjective | None:
        """An adjective that suits the noun, if there is one."""
        fitting = [a for a in ADJECTIVES if set(a.kinds) & set(noun.kinds)]
        return self.pick(fitting) if fitting and not noun.contained else None

    def counted(self, noun: Noun) -> Phrase:
        """`三只小猫`, three small cats."""
        adjective = self.adjective(noun) if self.chance(0.3) else None
        zh, en = (adjective.before, f"{adjective.en} ") if adjective else ("", "")
        if self.chance(0.5):
            phrase = article(en + noun.one)
            return Phrase(f"一{noun.measure}{zh}{noun.zh}", phrase, phrase)
        number = self.pick(NUMBERS)
        phrase = f"{number.en} {en}{noun.many}"
        return Phrase(f"{number.zh}{noun.measure}{zh}{noun.zh}", phrase, phrase, "you")

    def demonstrative(self, noun: Noun, *, plural: bool | None = None) -> Phrase:
        """`这本书`, this book; `那些书`, those books."""
        near = self.chance(0.5)
        zh = "这" if near else "那"
        if (self.chance(0.3) if plural is None else plural) and not noun.contained:
            phrase = f"{'these' if near else 'those'} {noun.many}"
            return Phrase(f"{zh}些{noun.zh}", phrase, phrase, "you")
        phrase = f"{'this' if near else 'that'} {noun.one}"
        return Phrase(f"{zh}{noun.measure}{noun.zh}", phrase, phrase)

    def owned(self, noun: Noun) -> Phrase:
        """`他的书`, his book; `安娜的书`, Anna's book."""
        if self.chance(0.25):
            owner = self.pick(NAMES)
            phrase = f"{owner.en}'s {noun.one}"
            return Phrase(f"{owner.zh}的{noun.zh}", phrase, phrase)
        own = self.pick(POSSESSIVES)
        phrase = f"{own.en} {noun.one}"
        return Phrase(f"{own.zh}的{noun.zh}", phrase, phrase)

    def definite(self, kinds: str) -> Phrase:
        """A thing that both speakers know: this, those, my."""
        noun = self.noun(kinds)
        if noun.contained or "Q" in noun.kinds or self.chance(0.6):
            return self.demonstrative(noun)
        return self.owned(noun)

    def object(self, verb: Verb, tense: str, negative: bool) -> Pair:
        """An object that suits the verb, its tense and its polarity."""
        noun = self.noun(verb.objects)
        idiom = any(verb.zh + noun.zh == activity.zh for activity in ACTIVITIES)      # 唱歌 is to sing
        if (tense == "habit" and not idiom) or (negative and not idiom and self.chance(0.4)):
            return Pair(noun.zh, noun.bare)
        phrase = self.definite(verb.objects) if negative or self.chance(0.4) else self.counted(noun)
        return Pair(phrase.zh, phrase.obj)

    # ---- clauses

    def other(self, subject: Phrase) -> Phrase:
        """A person other than the subject."""
        while True:
            person = self.pick((*PRONOUNS, *NAMES)) if self.chance(0.7) else self.relation()
            if not set(person.zh) & set(subject.zh):
                return person

    def where(self, verb: Verb) -> Pair:
        """A place where people do this, or nothing."""
        fitting = [p for p in PLACES if set(p.kinds) & set(verb.places)]
        if not fitting:
            return NOTHING
        place = self.pick(fitting)
        return Pair("在" + place.zh, place.where)

    def adjunct(self, verb: Verb, subject: Phrase) -> Pair:
        """Where, with whom or for whom; often nothing."""
        draw = self.random()
        if draw < 0.4:
            return self.where(verb)
        if draw < 0.55:
            other = self.other(subject)
            if verb.zh in ("买", "做", "画") and verb.objects:
                return Pair("给" + other.zh, "for " + other.obj)
            return Pair(f"和{other.zh}一起", "with " + other.obj)
        return NOTHING

    def clause(self, *, asked: bool = False, tenses: Sequence[str] = (), transitive: bool = False) -> Clause:
        """Somebody does something at some time."""
        tense = self.pick(tenses or ("past", "past", "future", "future", "habit", "now", "want", "should", "must"))
        subject = self.person(asked=asked)
        time = self.pick(TIMES[tense]) if tense in TIMES else NOTHING
        negative = tense not in ("now", "must", "can") and self.chance(0.25)
        if tense == "habit" and negative:
            time = NOTHING
        elif tense in ("want", "should", "must") and self.chance(0.4):
            time = self.pick(TIMES["future"])
        draw = 1.0 if transitive else self.random()
        if draw < 0.15 and tense != "now":
            place = self.pick([p for p in PLACES if p.zh != "家"])
            ride = self.pick(RIDES) if "T" in place.kinds and self.chance(0.6) else NOTHING
            return Clause(subject, GO, tense, Pair(place.zh, place.to), negative, time=time, adjunct=ride)
        if draw < 0.4:
            verb, thing = self.pick(ACTIVITIES), NOTHING
        else:
            verb = self.pick(VERBS)
            thing = self.object(verb, tense, negative)
            if "Q" in verb.objects:
                other = self.other(subject)
                thing = Pair(other.zh, other.obj)
        return Clause(subject, verb, tense, thing, negative, NOTHING, time, self.adjunct(verb, subject))

    def relative(self, noun: Noun) -> Phrase:
        """`我昨天买的书`, the book that I bought yesterday; `她喜欢的歌`, the song that she likes."""
        subject = self.pick((*PRONOUNS, *NAMES)) if self.chance(0.7) else self.relation()
        if self.chance(0.25):
            return relative_object(noun, Clause(subject, STATIVES[0], "habit"))
        verb = self.pick([v for v in VERBS if set(v.objects) & set(noun.kinds)])
        place = self.where(verb) if self.chance(0.2) else NOTHING
        return relative_object(noun, Clause(subject, verb, "past", time=self.pick(TIMES["past"]), adjunct=place))

    def doer(self) -> Phrase:
        """`正在唱歌的女孩`, the girl who is singing."""
        return relative_subject(self.noun("Q", counted=True), self.clause(tenses=("now",)))
