"""The sentences of the toy language pair: one function a construction, and the corpus drawn from them all."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

from microtfm.toy.clause import BE, NOTHING, Clause, Phrase, article, chinese, english, inverted, join, sentence
from microtfm.toy.lexicon import Adjective, Pair
from microtfm.toy.speaker import ACTIVITIES, ADJECTIVES, ADVERBS, GO, SPOTS, STATIVES, Speaker

LONGEST = 14            # Chinese characters, and English words and marks, of a sentence
SEEN = 3                # training sentences that hold each word and each construction of a held-out sentence
WHO = Phrase("谁", "who", "who")
LIKE, KNOW, HAVE = STATIVES[0], STATIVES[3], STATIVES[4]

Construction = Callable[[Speaker], Pair]


# ---- somebody does something

def statement(s: Speaker) -> Pair:
    """`我昨天在商店买了三本书。` I bought three books at the store yesterday."""
    clause = s.clause()
    return sentence(chinese(clause), english(clause))


def habit(s: Speaker) -> Pair:
    """`她常常在公园跑步。` She often runs in the park."""
    clause = replace(s.clause(tenses=("habit",)), negative=False, time=NOTHING, adverb=s.pick(ADVERBS))
    return sentence(chinese(clause), english(clause))


def stative(s: Speaker, *, asked: bool = False) -> Clause:
    """Somebody likes, needs, has or knows something."""
    subject, verb, negative = s.person(asked=asked), s.pick(STATIVES), s.chance(0.3)
    if verb.objects == "Q" or ("Q" in verb.objects and s.chance(0.3)):
        other = s.other(subject)
        thing = Pair(other.zh, other.obj)
    elif verb is HAVE and not negative:
        phrase = s.counted(s.noun(verb.objects))
        thing = Pair(phrase.zh, phrase.obj)
    else:
        noun = s.noun(verb.objects.replace("Q", ""))
        phrase = s.definite(noun.kinds)
        bare = verb is HAVE or s.chance(0.5)
        thing = Pair(noun.zh, noun.bare) if bare else Pair(phrase.zh, phrase.obj)
    return Clause(subject, verb, "habit", thing, negative)


def feeling(s: Speaker) -> Pair:
    """`我不喜欢猫。` I do not like cats."""
    clause = stative(s)
    return sentence(chinese(clause), english(clause))


# ---- questions

def yes_no(s: Speaker) -> Pair:
    """`你明天会去学校吗？` Will you go to school tomorrow?"""
    if s.chance(0.3):
        clause = replace(stative(s, asked=True), negative=False)
    else:
        clause = replace(s.clause(asked=True, tenses=("past", "future", "now", "want", "can")), negative=False)
    return sentence(chinese(clause) + "吗", inverted(clause), "？")


def what(s: Speaker) -> Pair:
    """`他昨天买了什么？` What did he buy yesterday?"""
    clause = s.clause(asked=True, tenses=("past", "future", "now", "want", "should"), transitive=True)
    if clause.verb.zh == "看":                      # to read or to watch: only its object could tell
        return what(s)
    person = "Q" in clause.verb.objects
    clause = replace(clause, object=Pair("谁" if person else "什么", ""), negative=False)
    return sentence(chinese(clause), inverted(clause, "who" if person else "what"), "？")


def which(s: Speaker) -> Pair:
    """`你喜欢哪本书？` Which book do you like?"""
    verb = s.pick(STATIVES[:3]) if s.chance(0.4) else None
    clause = s.clause(asked=True, tenses=("past", "future", "want", "should"), transitive=True)
    if verb:
        clause = Clause(clause.subject, verb, "habit")
    if clause.verb.objects in ("Q", "B") and not verb:
        clause = replace(clause, verb=LIKE, tense="habit", time=NOTHING, adjunct=NOTHING)
    noun = s.noun(clause.verb.objects.replace("Q", ""), counted=True)
    clause = replace(clause, object=Pair(f"哪{noun.measure}{noun.zh}", ""), negative=False)
    return sentence(chinese(clause), inverted(clause, f"which {noun.one}"), "？")


def how_many(s: Speaker) -> Pair:
    """`你有几只猫？` How many cats do you have?"""
    clause = s.clause(asked=True, tenses=("past", "future", "want"), transitive=True)
    if "Q" in clause.verb.objects or s.chance(0.3):
        clause = Clause(clause.subject, HAVE, "habit")
    noun = s.noun(clause.verb.objects)
    clause = replace(clause, object=Pair(f"几{noun.measure}{noun.zh}", ""), negative=False)
    return sentence(chinese(clause), inverted(clause, f"how many {noun.many}"), "？")


def who(s: Speaker) -> Pair:
    """`谁昨天买了这本书？` Who bought this book yesterday?"""
    clause = s.clause(tenses=("past", "future", "now", "want")) if s.chance(0.7) else stative(s)
    clause = replace(clause, subject=WHO, negative=False)
    if clause.adjunct.zh.startswith(("和", "给")):
        clause = replace(clause, adjunct=NOTHING)
    return sentence(chinese(clause), english(clause), "？")


def why(s: Speaker) -> Pair:
    """`他昨天为什么没去学校？` Why did he not go to school yesterday?"""
    clause = s.clause(asked=True, tenses=("past", "want", "habit")) if s.chance(0.6) else stative(s, asked=True)
    done = clause.tense == "past" and not clause.negative
    if done:
        clause = replace(clause, tense="want", time=NOTHING)
    return sentence(chinese(clause, reason="为什么"), inverted(clause, "why"), "？")


def where(s: Speaker) -> Pair:
    """`她在哪里工作？` Where does she work? `你明天会去哪里？` Where will you go tomorrow?"""
    draw = s.random()
    if draw < 0.3:
        clause = s.clause(asked=True, tenses=("past", "future", "want"))
        clause = replace(clause, verb=GO, object=Pair("哪里", ""), adjunct=NOTHING, negative=False)
    elif draw < 0.6:
        clause = s.clause(asked=True, tenses=("future", "want", "should"))
        clause = replace(clause, verb=s.pick(ACTIVITIES), object=NOTHING, adjunct=Pair("在哪里", ""), negative=False)
    elif draw < 0.8:
        clause = Clause(s.person(asked=True), s.pick(ACTIVITIES), "habit", adjunct=Pair("在哪里", ""))
    else:
        thing = s.definite("TOZGAV") if s.chance(0.6) else s.person(asked=True)
        return sentence(f"{thing.zh}在哪里", f"where {BE[thing.agree]} {thing.en}", "？")
    return sentence(chinese(clause), inverted(clause, "where"), "？")


def whose(s: Speaker) -> Pair:
    """`这是谁的书？` Whose book is this?"""
    noun = s.noun("TUGVAOC", counted=True)
    zh, en = s.pick((("这", "this"), ("那", "that")))
    return sentence(f"{zh}是谁的{noun.zh}", f"whose {noun.one} is {en}", "？")


# ---- what things are, and where

def described(s: Speaker) -> tuple[Phrase, str]:
    """A subject and the kinds of adjective that suit it."""
    draw = s.random()
    if draw < 0.3:
        return s.person(), "Q"
    noun = s.noun("TFEACVGUX", counted=True)
    if draw < 0.5:
        return s.demonstrative(noun), noun.kinds
    if draw < 0.65:
        return s.owned(noun), noun.kinds
    return s.relative(noun), noun.kinds


def quality(s: Speaker) -> Pair:
    """`这本书很贵。` This book is expensive. `我昨天买的车不新。` The car that I bought yesterday is not new."""
    subject, kinds = described(s)
    adjective = s.pick(suiting(kinds))
    degree, word = s.pick((("很", ""), ("很", ""), ("不", "not"), ("非常", "very"), ("太", "too"), ("", "？")))
    verb = BE[subject.agree]
    if word == "？":
        return sentence(f"{subject.zh}{adjective.zh}吗", f"{verb} {subject.en} {adjective.en}", "？")
    zh = f"{subject.zh}{degree}{adjective.zh}{'了' if degree == '太' else ''}"
    return sentence(zh, join(subject.en, verb, word, adjective.en))


def comparison(s: Speaker) -> Pair:
    """`这本书比那本书贵。` This book is more expensive than that book."""
    if s.chance(0.5):
        left = s.person()
        right, kinds = s.other(left), "Q"
    else:
        noun = s.noun("TFACVGUX", counted=True)
        left, right, kinds = s.demonstrative(noun, plural=False), s.owned(noun), noun.kinds
        if s.chance(0.5):
            left, right = right, left
    adjective, verb = s.pick(suiting(kinds)), BE[left.agree]
    draw = s.random()
    if draw < 0.5:
        return sentence(f"{left.zh}比{right.zh}{adjective.zh}", f"{left.en} {verb} {adjective.more} than {right.obj}")
    if draw < 0.75:
        return sentence(f"{left.zh}没有{right.zh}{adjective.zh}",
                        f"{left.en} {verb} not as {adjective.en} as {right.obj}")
    return sentence(f"{left.zh}和{right.zh}一样{adjective.zh}", f"{left.en} {verb} as {adjective.en} as {right.obj}")


def identity(s: Speaker) -> Pair:
    """`她是医生。` She is a doctor. `这是我昨天买的书。` This is the book that I bought yesterday."""
    zh, negation = ("不是", "not") if s.chance(0.3) else ("是", "")
    if s.chance(0.5):
        subject, noun = s.person(), s.noun("J")
        several = subject.agree == "you" and subject.zh != "你"
        complement = noun.many if several else article(noun.one)
        return sentence(subject.zh + zh + noun.zh, join(subject.en, BE[subject.agree], negation, complement))
    near = s.pick((Pair("这", "this"), Pair("那", "that")))
    noun = s.noun("TFECVGUOIS", counted=True)
    phrase = s.relative(noun) if s.chance(0.6) else s.owned(noun)
    return sentence(near.zh + zh + phrase.zh, join(near.en, "is", negation, phrase.en))


def liked(s: Speaker) -> Pair:
    """`我喜欢你昨天买的书。` I like the book that you bought yesterday; `我认识正在唱歌的女孩。`"""
    asked, negative = s.chance(0.3), s.chance(0.3)
    subject = s.person(asked=asked)
    phrase, verb = s.relative(s.noun("TFECVGUOIS", counted=True)), LIKE
    if s.chance(0.3):
        phrase, verb = s.doer(), KNOW
    if subject.zh in phrase.zh:
        return liked(s)
    clause = Clause(subject, verb, "habit", Pair(phrase.zh, phrase.obj), negative and not asked)
    if asked:
        return sentence(chinese(clause) + "吗", inverted(clause), "？")
    return sentence(chinese(clause), english(clause))


def doing(s: Speaker) -> Pair:
    """`正在唱歌的女孩是我的学生。` The girl who is singing is my student."""
    subject = s.doer()
    if s.chance(0.3):
        return sentence(subject.zh + "是谁", f"who is {subject.en}", "？")
    if s.chance(0.5):
        role = s.owned(s.noun("P"))
        return sentence(f"{subject.zh}是{role.zh}", f"{subject.en} is {role.en}")
    adjective = s.pick(suiting("Q"))
    return sentence(f"{subject.zh}很{adjective.zh}", f"{subject.en} is {adjective.en}")


def location(s: Speaker) -> Pair:
    """`你的钥匙在桌子上。` Your key is on the table."""
    spot, kinds = s.pick(SPOTS)
    subject = s.person() if "Q" in kinds and s.chance(0.5) else s.definite("N" if kinds == "Q" else "TOE")
    if s.chance(0.2):
        noun = s.noun("TO", counted=True)
        subject, spot = s.relative(noun), s.pick([p for p, kinds in SPOTS if "O" in kinds])
    verb, draw = BE[subject.agree], s.random()
    if draw < 0.25:
        return sentence(f"{subject.zh}在{spot.zh}吗", f"{verb} {subject.en} {spot.en}", "？")
    if draw < 0.5:
        return sentence(f"{subject.zh}不在{spot.zh}", f"{subject.en} {verb} not {spot.en}")
    return sentence(f"{subject.zh}在{spot.zh}", f"{subject.en} {verb} {spot.en}")


def existence(s: Speaker) -> Pair:
    """`桌子上有三本书。` There are three books on the table."""
    spot, kinds = s.pick(SPOTS)
    noun = s.noun({"Q": "QN", "O": "TOE", "ON": "TON", "OQ": "TON"}[kinds], counted=True)
    if noun.zh in spot.zh:
        return existence(s)
    draw = s.random()
    if draw < 0.15:
        return sentence(f"{spot.zh}没有{noun.zh}", f"there are no {noun.many} {spot.en}")
    if draw < 0.25:
        return sentence(f"{spot.zh}有很多{noun.zh}", f"there are many {noun.many} {spot.en}")
    if draw < 0.4:
        return sentence(f"{spot.zh}有什么", f"what is {spot.en}", "？")
    if draw < 0.55:
        return sentence(f"{spot.zh}有几{noun.measure}{noun.zh}", f"how many {noun.many} are there {spot.en}", "？")
    if draw < 0.65:
        return sentence(f"{spot.zh}有{noun.zh}吗", f"are there any {noun.many} {spot.en}", "？")
    things = s.counted(noun)
    return sentence(f"{spot.zh}有{things.zh}", f"there {BE[things.agree]} {things.en} {spot.en}")


# ---- the corpus

CONSTRUCTIONS: dict[Construction, int] = {     # and how often each is drawn
    statement: 26, habit: 4, feeling: 6, yes_no: 9, what: 6, which: 4, how_many: 4, who: 4, why: 5, where: 5, whose: 1,
    quality: 8, comparison: 6, identity: 6, liked: 5, doing: 4, location: 5, existence: 6,
}
WEIGHTED = tuple(construction for construction, weight in CONSTRUCTIONS.items() for _ in range(weight))


def suiting(kinds: str) -> list[Adjective]:
    """The adjectives that suit a noun of these kinds."""
    return [adjective for adjective in ADJECTIVES if set(adjective.kinds) & set(kinds)]


def words(pair: Pair) -> set[str]:
    """The Chinese characters and the English words and marks of a pair."""
    return set(pair.zh) | set(re.findall(r"'?\w+|[.?]", pair.en))


def fits(pair: Pair) -> bool:
    """Whether both sentences are short enough for the demo."""
    return len(pair.zh) <= LONGEST and len(re.findall(r"'?\w+|[.?]", pair.en)) <= LONGEST


def stream(seed: int) -> Iterator[tuple[Pair, str]]:
    """Distinct pairs without end, each with the name of its construction."""
    speaker, said = Speaker(seed), set[str]()
    while True:
        construction = speaker.pick(WEIGHTED)
        pair = construction(speaker)
        if fits(pair) and pair.zh not in said:
            said.add(pair.zh)
            yield pair, construction.__name__


def corpus(n: int = 12_000, held_out: int = 500, seed: int = 0) -> tuple[list[Pair], list[Pair]]:
    """`n` training pairs and `held_out` unseen ones, all distinct, no Chinese sentence in both.

    Every word and every construction of a held-out pair occurs in training (at least SEEN times each), so that
    what is tested is putting known parts together in new ways. The same arguments give the same pairs anywhere.
    """
    pairs = stream(seed)
    training = list(itertools.islice(pairs, n))
    seen = Counter(part for pair, construction in training for part in {construction, *words(pair)})
    known = (pair for pair, construction in pairs if min(seen[part] for part in {construction, *words(pair)}) >= SEEN)
    return [pair for pair, _ in training], list(itertools.islice(known, held_out))
