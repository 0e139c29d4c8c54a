"""In which scripts sentences are written, and whether one is surely in another script than others are."""
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from microtfm.corpus_check.letters import SCRIPT_OF, SCRIPTS, WIDE

OF_CHAR = SCRIPT_OF.tobytes()            # a byte is found faster in bytes than in an array
SPACELESS = frozenset(SCRIPTS[index] for index in WIDE)
WORD = re.compile(r"\W*([^\W\d_]+(?:['’-][^\W\d_]+)*)\W*")
OWN = 0.01                               # share of lines from which a script is one of a text's own
FOREIGN = 0.1                            # share of a line that may be in an own script, and the line still be foreign
CHARS, WORDS, LOWER = 4, 3, 2            # of a foreign line, at least; words without a capital, so that names are none


def counts(line: str) -> Counter[str]:
    """How much of a line each script has: words, or characters where words have no spaces; digits, addresses and the
    like do not count."""
    found = Counter(script for script in map(_script, line) if script in SPACELESS)
    found.update(_script(word[0]) for word in _words(line))
    found.pop("", None)
    return found


def own(lines: Iterable[str]) -> frozenset[str]:
    """The scripts of a text: each that is the most frequent one in a hundredth of its lines or more; where there are
    kana, Chinese characters too."""
    tops = Counter(found.most_common(1)[0][0] for found in map(counts, lines) if found)
    found = frozenset(script for script, count in tops.items() if count >= OWN * tops.total())
    return found | {"Han"} if "Kana" in found else found


def foreign(line: str, scripts: frozenset[str]) -> str | None:
    """The script of a line that has next to nothing in these scripts, or None."""
    found = counts(line)
    if not found or sum(found[script] for script in scripts) > FOREIGN * found.total():
        return None
    return found.most_common(1)[0][0]


def surely_foreign(lines: Sequence[str], scripts: frozenset[str]) -> list[str]:
    """The lines in another script that are long enough to be more than a name, a symbol or a borrowed word."""
    return [line for line in lines if (script := foreign(line, scripts)) is not None and _is_enough(line, script)]


def _is_enough(line: str, script: str) -> bool:
    if script in SPACELESS:
        return sum(_script(char) in SPACELESS for char in line) >= CHARS
    words = [word for word in _words(line) if _script(word[0]) == script]
    return len(words) >= WORDS and sum(not word[0].isupper() for word in words) >= LOWER


def _words(line: str) -> list[str]:
    """The words between spaces that are of letters alone, none of which is of a script without spaces."""
    found = [match[1] for word in line.split() if (match := WORD.fullmatch(word)) is not None]
    return [word for word in found if _script(word[0]) not in SPACELESS]


def _script(char: str) -> str:
    return SCRIPTS[OF_CHAR[ord(char)]]
