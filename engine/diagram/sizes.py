"""What an axis is called: an integer that knows which named sizes it is the product of, `8·64 = H·K`."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

Atom = tuple[str, int]                   # a name ("" where nobody said one) and a size
Term = tuple[Atom, ...]                  # a product


class Size(int):
    """The size of an axis: a sum of products of named sizes. Shape rules pass it on as the integer that it is."""
    terms: tuple[Term, ...]

    def __new__(cls, terms: Iterable[Term]) -> Size:
        terms = tuple(terms)
        size = int.__new__(cls, sum(prod(n for _, n in term) for term in terms))
        size.terms = terms
        return size

    @classmethod
    def plain(cls, n: int) -> Size:
        """An axis that nobody has named."""
        return cls(((() if n == 1 else (("", n),)),))

    @classmethod
    def declared(cls, name: Any, n: int) -> Size:
        """An axis as `Tensor.axes` names it: a string, a product in order `{"H": 8, "K": 64}`, or None."""
        if isinstance(name, Mapping):
            parts = tuple((str(k), int(v)) for k, v in name.items() if v != 1)
            if prod(v for _, v in parts) == n:
                return cls((parts,))
        return cls((((str(name), n),),)) if isinstance(name, str) and name and n != 1 else cls.plain(n)

    @property
    def named(self) -> bool:
        """Whether every part has a name; 1 needs none, nor what is added to a named part or cut off from it."""
        rest = [term for term in self.terms if len(self.terms) == 1 or len(term) != 1 or term[0][0]]
        return (self == 1 or any(rest)) and all(name for term in rest for name, _ in term)

    def text(self) -> str:
        """`H·K`, `B·T + 2·D`, `T−1`; the number where there is no name."""
        counted: dict[str, int] = {}
        less = 0
        for term in self.terms:
            if len(term) == 1 and term[0][1] < 0:
                less -= term[0][1]
                continue
            text = "·".join(name or str(n) for name, n in term) or "1"
            counted[text] = counted.get(text, 0) + 1
        if counted.keys() == {"1"}:
            return str(int(self))
        sum_ = " + ".join(text if n == 1 else f"{n}·{text}" for text, n in counted.items())
        return f"{sum_}−{less}" if less else sum_

    def less(self, n: int) -> Size:
        """The axis without n of its places."""
        kept, cut = self._cut()
        return Size([*kept, (("", -n - cut),)])

    def more(self, n: int) -> Size:
        """The axis with n places added; what had been cut off is no longer missing."""
        kept, cut = self._cut()
        if n == cut:
            return Size(kept)
        return Size([*kept, (("", n - cut),) if n - cut != 1 else ()])

    def _cut(self) -> tuple[list[Term], int]:
        """The terms without what was cut off, and how much that was."""
        cut = sum(-term[0][1] for term in self.terms if len(term) == 1 and term[0][1] < 0)
        return [term for term in self.terms if len(term) != 1 or term[0][1] >= 0], cut


Sizes = tuple[Size, ...]


def product(sizes: Iterable[Size]) -> Size:
    """The axis that reshaping several axes into one makes."""
    terms: list[Term] = [()]
    for size in sizes:
        terms = [a + b for a in terms for b in size.terms]
    return Size(terms)


def reshaped(sizes: Sizes, target: tuple[int, ...]) -> Sizes:
    """The sizes after a reshape: neighbouring axes are joined or taken apart into the sizes they were joined from."""
    atoms: list[Size] = []               # the input's axes as far apart as their names allow
    for size in sizes:
        atoms += [Size(((atom,),)) for atom in size.terms[0]] if len(size.terms) == 1 else [size]
    out: list[Size] = []
    at = 0
    for n in target:
        begin, have = at, 1
        while have < n and at < len(atoms):
            have *= atoms[at]
            at += 1
        if have == n and n != 1:
            out.append(product(atoms[begin:at]))
        elif have != n and have % n == 0 and n:      # an axis cut in two that nobody had named apart
            rest = have // n
            out.append(Size.plain(n))
            at -= 1
            atoms[at] = Size.plain(rest)
        else:
            out.append(Size.plain(n))
    return tuple(out)


def shape_text(sizes: Sizes) -> str:
    """`B×T×D = 64×12×128`, `2×3` where nothing has a name, `scalar` without axes."""
    if not sizes:
        return "scalar"
    names, numbers = "×".join(_factor(s) for s in sizes), "×".join(str(int(s)) for s in sizes)
    return numbers if names == numbers else f"{names} = {numbers}"


def _factor(size: Size) -> str:
    text = size.text()
    return f"({text})" if " + " in text or "−" in text else text
