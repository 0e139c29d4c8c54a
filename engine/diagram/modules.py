"""The tree of modules over the boxes: what may be folded, and which neighbours are the same but for their weights."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isqrt

from engine.diagram.boxes import Box, Path

CROWD = 400                              # children of one module that a reader can still take in


@dataclass
class Module:
    """A scope and all that was made in it."""
    path: Path
    boxes: list[int] = field(default_factory=list)           # of it and of all below, in order
    children: list[Path] = field(default_factory=list)
    own: int = 0                         # boxes that are in it and in no child


@dataclass
class Repeat:
    """Neighbouring modules of the same structure; the first stands for all."""
    members: list[Path]
    same_weights: bool

    @property
    def note(self) -> str:
        return f"×{len(self.members)} ({'same' if self.same_weights else 'own'} weights)"


class Tree:
    """All modules by path."""

    def __init__(self, boxes: list[Box]) -> None:
        self.boxes = boxes
        self.notice = _break_up(boxes)
        self.modules: dict[Path, Module] = {(): Module(())}
        for box in boxes:
            self._enter(box)
        self.repeats: dict[Path, Repeat] = {}                # by every member
        for path in list(self.modules):
            self._find_repeats(self.modules[path].children)

    def _enter(self, box: Box) -> None:
        for n in range(len(box.path) + 1):
            path = box.path[:n]
            if path not in self.modules:
                self.modules[path] = Module(path)
                self.modules[path[:-1]].children.append(path)
            self.modules[path].boxes.append(box.id)
        self.modules[box.path].own += 1

    def _find_repeats(self, children: Sequence[Path]) -> None:
        run: list[Path] = []
        last = None
        for path in [*children, None]:
            key = (_stem(path), self._structure(path)) if path is not None and _stem(path) else None
            if key is None or key != last:
                if len(run) > 1:
                    repeat = Repeat(run, self._one_set_of_weights(run))
                    self.repeats.update(dict.fromkeys(run, repeat))
                run = []
            if path is not None and key is not None:
                run.append(path)
            last = key

    def _structure(self, path: Path) -> int:
        """A hash of ops, shapes, parameters and inner edges; equal for modules that do the same."""
        ids = self.modules[path].boxes
        at = {b: i for i, b in enumerate(ids)}
        depth = len(path)
        seen = []
        for i in ids:
            box = self.boxes[i]
            inside = tuple((at.get(e.source, -1), e.role) for e in box.inputs)
            seen.append((box.kind, box.op, box.column, box.path[depth:], box.sizes, box.dtype,
                         tuple(box.params.items()), inside, box.learns, box.change))
        return hash(tuple(seen))

    def _one_set_of_weights(self, run: Sequence[Path]) -> bool:
        def weights(path: Path) -> set[int]:
            return {e.source for i in self.modules[path].boxes for e in self.boxes[i].inputs
                    if self.boxes[e.source].kind == "parameter"}
        first = weights(run[0])
        return bool(first) and all(weights(p) == first for p in run[1:])


def _stem(path: Path) -> str:
    """`layers` of `layers.3`; empty where the name has no number."""
    stem, _, number = path[-1].rpartition(".")
    return stem if number.isdigit() else ""


def _break_up(boxes: list[Box]) -> str:
    """Where a module has too many boxes of its own, put neighbours into parts. Returns a notice, or nothing."""
    crowded: dict[Path, list[Box]] = {}
    for box in boxes:
        if box.column == 0:
            crowded.setdefault(box.path, []).append(box)
    largest = max(map(len, crowded.values()), default=0)
    if largest <= CROWD:
        return ""
    for path, own in crowded.items():
        if len(own) > CROWD:
            step = -(-max(isqrt(len(own)), 50) // 12) * 12
            for i, box in enumerate(own):
                box.path = (*path, f"ops.{i // step}")
    for box in boxes:
        if box.column and box.of is not None and len(boxes[box.of].path) > len(box.path):
            box.path = boxes[box.of].path
    return f"{largest:,} boxes in one place were folded into parts of equal length."
