"""The demo's corpus: Chinese and English sentences made by a small grammar of real words.

Measure words, questions, negation, tense told by time phrases, places, relative clauses, comparison: the word orders
of the two languages differ as they really do, every Chinese sentence has one English translation, and English
agrees (a/an, plurals, verb forms). `corpus` draws distinct pairs; the same seed gives the same pairs on any machine.

Reading order: `lexicon` (the words), `clause` (one meaning in two word orders), `speaker` (who draws phrases),
`grammar` (the constructions and the corpus).
"""

from microtfm.toy.grammar import corpus

__all__ = ["corpus"]
