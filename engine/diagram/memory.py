"""Which tensor lives from when to when over the forward and the backward pass, and how many bytes that makes."""
from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path as File

from engine.diagram.boxes import Box
from engine.errors import GraphError


@dataclass
class Life:
    """A tensor's time in memory, in steps of the pass."""
    box: int
    born: int
    dies: int                            # the last step at which it is there
    bytes: int


@dataclass
class Memory:
    """Lives of all tensors, and live bytes after each step."""
    lives: list[Life]
    live: list[int]
    boxes: list[Box] = field(default_factory=list, repr=False)

    @property
    def peak(self) -> tuple[int, int]:
        """The first step at which most is live, and the bytes."""
        most = max(self.live, default=0)
        return (self.live.index(most), most) if self.live else (0, 0)

    def svg(self, title: str = "") -> str:
        """Every tensor's life as a rectangle, live bytes below, the peak marked."""
        from engine.draw.lives import lives_svg
        return lives_svg(self, self.boxes, title)

    def save(self, path: str | File, title: str = "") -> File:
        """Write the picture as .svg, or the lives as lines of text: .txt. Raises GraphError for another suffix."""
        path = File(path)
        if path.suffix.lower() not in (".svg", ".txt"):
            raise GraphError(f"memory: {path.name} must end in .svg or .txt")
        path.write_text(self.svg(title) if path.suffix.lower() == ".svg" else f"{self}\n", encoding="utf-8")
        return path

    def __str__(self) -> str:
        at, most = self.peak
        rows = []
        for life in sorted(self.lives, key=lambda life: (-life.bytes, life.box)):
            box = self.boxes[life.box]
            rows.append(f"{life.bytes:>14,} bytes  steps {life.born:>5} to {life.dies:>5}  {box.id} {box.label}  "
                        f"{box.shape}  {'/'.join(box.path)}".rstrip())
        return "\n".join([*rows, f"{len(rows):,} tensors; peak {most:,} bytes at step {at:,} of {len(self.live):,}"])


def memory(boxes: list[Box]) -> Memory:
    """Inputs and parameters live throughout; a saved tensor until the end of the backward pass, where the engine
    drops all of them; any other until it was last read. A view lives in the memory of what it is a view of."""
    steps = {box.id: i for i, box in enumerate(boxes)}
    last = len(boxes) - 1
    through = any(b.column for b in boxes)
    owner: dict[int, int] = {}
    dies: dict[int, int] = {}
    for box in boxes:
        held = box.id
        if box.view and box.inputs:
            held = owner.get(box.inputs[0].source, box.inputs[0].source)
        owner[box.id] = held
        stays = box.kind in ("input", "parameter") or not box.readers or (box.gradient_of is not None and (
            boxes[box.gradient_of].kind == "parameter"))
        end = last if stays else max(steps[e.target] for e in box.readers)
        dies[held] = max(dies.get(held, 0), end)
    if through:
        for box in boxes:
            for kept in box.kept:
                dies[owner[kept]] = last
    lives = [Life(b.id, steps[b.id] if b.op or b.column else 0, dies[b.id], b.bytes) for b in boxes
             if owner[b.id] == b.id and b.bytes]
    change = [0] * (len(boxes) + 1)
    for life in lives:
        change[life.born] += life.bytes
        change[life.dies + 1] -= life.bytes
    live, total = [], 0
    for step in range(len(boxes)):
        total += change[step]
        live.append(total)
    return Memory(lives, live, boxes)
