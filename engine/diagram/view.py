"""A view: which modules are open, and the boxes and edges that are then to be seen."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from engine.diagram.boxes import Box, Edge, Path
from engine.diagram.modules import Tree
from engine.errors import GraphError


@dataclass
class Item:
    """A box to be seen: one tensor, or a closed module with all that is in it."""
    id: int
    column: int
    path: Path                           # the open module that it stands in
    module: Path | None                  # of a closed module: its own path
    boxes: list[Box] = field(default_factory=list)
    copies: str = ""                     # ×6 (own weights)
    times: int = 1                       # how many copies of the open modules around it there are
    of: int | None = None                # the forward item that it hangs on
    port: str = ""                       # of a view of one module: what comes from outside, or leaves
    residuals: int = 0                   # of a closed module: residual connections that are inside

    @property
    def box(self) -> Box:
        """The one tensor, or the last one made."""
        return self.boxes[-1]

    @property
    def change(self) -> str:
        """Of two graphs compared: what became of it; of a module, what became of all in it, or "~"."""
        changes = {b.change for b in self.boxes}
        return changes.pop() if len(changes) == 1 else "~"


@dataclass
class Ticks:
    """What learns: numbers that do, numbers that are frozen, and the letters of weights counted elsewhere."""
    learning: int = 0
    frozen: int = 0
    letters: str = ""

    @property
    def text(self) -> str:
        """`✓ 262,656`, `☐ 512 frozen`, with the letters of shared weights."""
        parts = [f"✓ {self.learning:,}"] if self.learning else []
        parts += [f"☐ {self.frozen:,} frozen"] if self.frozen else []
        if self.letters:
            parts = parts or ["✓ shared"]
            parts.append(self.letters)
        return " ".join(parts)


def ticks(inside: Iterable[Box], boxes: list[Box], badges: dict[int, str]) -> Ticks:
    """The ticks of some boxes: each weight counts where it is first used."""
    found, letters = Ticks(), set()
    for box in inside:
        if box.kind == "parameter":
            found.learning += box.size if box.learns else 0
            found.frozen += 0 if box.learns else box.size
            letters |= {badges[box.id]} if box.id in badges else set()
        elif box.column == 0 and badges:
            letters |= {badges[e.source] for e in box.inputs if e.source in badges}
    found.letters = "".join(f"[{letter}]" for letter in sorted(letters))
    return found


@dataclass
class Link:
    """A tensor on its way from one item to another."""
    source: int
    target: int
    tensor: Box
    kind: str                            # forward | backward | saved | constant
    role: str
    residual: bool = False
    changes: set[str] = field(default_factory=set)           # of two graphs compared: of all edges that it stands for
    tensors: set[int] = field(default_factory=set)           # all that it stands for

    @property
    def change(self) -> str:
        """"−" or "+" where only one of two compared graphs has it."""
        return next(iter(self.changes)) if len(self.changes) == 1 else ""


@dataclass
class Frame:
    """An open module."""
    path: Path
    copies: str
    times: int = 1
    boxes: list[Box] = field(default_factory=list)


@dataclass
class View:
    """What is to be seen."""
    items: list[Item]
    links: list[Link]
    frames: dict[Path, Frame]
    badges: dict[int, str]               # of parameters that are used at several places
    notice: str = ""
    title: str = ""
    shift: int = 0                       # of a backward pass drawn alone: its column in the whole graph

    def __repr__(self) -> str:
        return f"<view of {len(self.items)} boxes and {len(self.links)} arrows>"


def opened(tree: Tree, depth: int | None, paths: Iterable[str] = (), level: str = "op") -> set[Path]:
    """The modules that are open: all above a depth, those named, and on level `module` none that has no module
    inside."""
    found: set[Path] = {()}
    for path, module in tree.modules.items():
        if (depth is None or len(path) <= depth) and (level == "op" or module.children):
            found.add(path)
    for text in paths:
        path = named(tree, text)
        found |= {path[:n] for n in range(len(path) + 1)}
    return found


def named(tree: Tree, text: str) -> Path:
    """The module that a person means by `encoder/layers.0`. Raises GraphError where there is none."""
    wanted = text.strip("/").replace("/", ".")
    all_paths = {".".join(p): p for p in tree.modules if p}
    hits = [p for joined, p in all_paths.items() if joined == wanted or joined.endswith("." + wanted)]
    if not hits:
        near = ", ".join("/".join(p) for p in list(all_paths.values())[:12])
        raise GraphError(f"no module is called {text!r}. There are: {near}{', …' if len(all_paths) > 12 else ''}")
    return min(hits, key=len)


def badges(boxes: list[Box]) -> dict[int, str]:
    """A letter for each parameter that several modules use."""
    tied = [b.id for b in boxes if b.kind == "parameter"
            and len({boxes[e.target].path for e in b.readers if boxes[e.target].column == 0}) > 1]
    return {b: chr(ord("A") + i) if i < 26 else f"A{i}" for i, b in enumerate(tied)}


def is_chip(box: Box, boxes: list[Box]) -> bool:
    """Whether a leaf is written into the box of the op that uses it: a weight inside a module."""
    return box.kind == "parameter" and bool(box.path) and bool(box.readers)


class Viewer:
    """Makes views of one graph."""

    def __init__(self, boxes: list[Box], tree: Tree, columns: set[int]) -> None:
        self.boxes, self.tree, self.columns = boxes, tree, columns
        self.badges = badges(boxes)

    def view(self, open_: set[Path], explicit: set[Path] = frozenset(), root: Path = ()) -> View:  # type: ignore[assignment]
        """The items, links and frames with these modules open; `root`: of this module alone, with its ports."""
        self.open, self.explicit, self.root = open_, explicit, root
        self.items: list[Item] = []
        self.keys: dict[tuple[int, Path | int], Item] = {}
        self.twins: dict[int, int] = {}
        self._twin()
        self.rep: dict[int, Item] = {}
        for i in self.tree.modules[root].boxes:
            box = self.boxes[i]
            if not is_chip(box, self.boxes):
                self._place(box)
        for i in self.tree.modules[root].boxes:
            box = self.boxes[i]
            if is_chip(box, self.boxes):
                self._chip(box)
        for item in self.items:
            item.residuals = sum(b.residual and self._inner(b, item) for b in item.boxes) if item.module else 0
        links = self._links()
        self._hang()
        frames = self._frames()
        for item in self.items:              # places are counted from the module that is shown
            item.path = item.path[len(root):]
        return View(self.items, links, {p[len(root):]: f for p, f in frames.items()}, self.badges, self.tree.notice,
                    "/".join(root))

    def _twin(self) -> None:
        """For members of repeats that are shown by their first: which box stands for which."""
        self.hidden: dict[Path, Path] = {}
        for repeat in {id(r): r for r in self.tree.repeats.values()}.values():
            first, *others = repeat.members
            if len(first) <= len(self.root) or first[:-1] not in self.open or self._singled_out(repeat.members):
                continue
            for path in others:
                self.hidden[path] = first
                self.twins.update(zip(self.tree.modules[path].boxes, self.tree.modules[first].boxes, strict=True))

    def _singled_out(self, members: list[Path]) -> bool:
        return any(p[:len(m)] == m for p in self.explicit for m in members)

    def _stands_for(self, i: int) -> int:
        while i in self.twins:
            i = self.twins[i]
        return i

    def _place(self, box: Box) -> Item | None:
        """The item in which a box is seen; made where it is not there yet."""
        if box.column not in self.columns:
            return None
        if box.id in self.twins:
            twin = self.boxes[self._stands_for(box.id)]
            item = self.rep.get(twin.id) or self._place(twin)
            if item is not None and item.copies:
                item.boxes.append(box)
            if item is not None:
                self.rep[box.id] = item
            return item
        if box.id in self.rep:
            return self.rep[box.id]
        closed = next((box.path[:n] for n in range(len(self.root) + 1, len(box.path) + 1)
                       if box.path[:n] not in self.open), None)
        key: tuple[int, Path | int] = (box.column, closed if closed is not None else box.id)
        if closed is None and box.kind == "accumulate" and box.of is not None:
            key = (box.column, -2_000_000_000 - box.of)          # the gradients of one tensor meet in one box
        item = self.keys.get(key)
        if item is None:
            item = Item(len(self.items), box.column, closed[:-1] if closed is not None else box.path, closed)
            repeat = self.tree.repeats.get(closed) if closed is not None else None
            for n in range(1, len(item.path) + 1):
                outer = self.tree.repeats.get(item.path[:n])
                if outer is not None and outer.members[-1] in self.hidden:
                    item.times *= len(outer.members)
            if repeat is not None and repeat.members[0] == closed and repeat.members[-1] in self.hidden:
                item.copies = repeat.note
            self.items.append(item)
            self.keys[key] = item
        item.boxes.append(box)
        self.rep[box.id] = item
        return item

    def _chip(self, box: Box) -> None:
        """A weight is seen in the box of the op that first uses it."""
        user = next((self.rep[e.target] for e in box.readers if e.target in self.rep
                     and self.boxes[e.target].column == box.column), None)
        if user is not None:
            self.rep[box.id] = user
            if box.id not in self.twins or user.copies:
                user.boxes.insert(0, box)

    # ------------------------------------------------------------------------------------------ links
    def _links(self) -> list[Link]:
        links: dict[tuple[int, int, int, str], Link] = {}
        inside = self.tree.modules[self.root].boxes
        for i in inside:
            target = self.rep.get(i)
            if target is None:
                continue
            for edge in self.boxes[i].inputs:
                self._link(links, edge, target, self.boxes[i])
        if self.root:
            held = set(inside)
            for i in inside:
                for edge in self.boxes[i].readers:
                    if edge.target not in held and self.boxes[edge.target].column in self.columns and i in self.rep:
                        self._leave(links, self.boxes[i], edge.kind)
        return list(links.values())

    def _link(self, links: dict, edge: Edge, target: Item, reader: Box) -> None:
        source, kind = edge.source, edge.kind
        tensor = self.boxes[source]
        if tensor.column not in self.columns:
            if kind != "saved":
                return
            kind = "backward"
        if self._between_copies(source, reader.id):
            return
        item = self.rep.get(source)
        if item is None:
            if tensor.kind == "parameter" and tensor.path:
                return
            item = self._port(tensor, "from")
        if item is target or (tensor.id in self.badges and tensor.path and kind in ("forward", "constant")):
            return
        canonical = self.boxes[self._stands_for(source)]
        many = kind == "saved" and item.module is not None       # a closed module keeps many: one line for all
        key = (item.id, target.id, -1 if many else canonical.id, kind)
        if key not in links:
            links[key] = Link(item.id, target.id, canonical, kind, edge.role)
        links[key].changes.add(edge.change)
        links[key].tensors.add(canonical.id)
        links[key].residual |= (reader.residual and kind == "forward" and not self._inner(reader, target)
                                and source == min(e.source for e in reader.inputs[:2]))

    def _inner(self, box: Box, item: Item) -> bool:
        """Whether a residual connection runs inside the item: one of what is added is made there."""
        return any(self.rep.get(e.source) is item for e in box.inputs[:2])

    def _between_copies(self, a: int, b: int) -> bool:
        """Whether an edge leads from one copy of a repeated module to another copy."""
        for path in self._member(a):
            for other in self._member(b):
                if path != other and self.tree.repeats[path] is self.tree.repeats[other]:
                    return True
        return False

    def _member(self, i: int) -> list[Path]:
        path = self.boxes[i].path
        found = []
        for n in range(1, len(path) + 1):
            part = path[:n]
            repeat = self.tree.repeats.get(part)
            if repeat is not None and repeat.members[-1] in self.hidden:
                found.append(part)
        return found

    def _port(self, tensor: Box, way: str) -> Item:
        key = (tensor.column, -1 - tensor.id)
        if key not in self.keys:
            item = Item(len(self.items), tensor.column, self.root, None, [tensor], port=way)
            self.items.append(item)
            self.keys[key] = item
            self.rep[tensor.id] = item
        return self.keys[key]

    def _leave(self, links: dict, tensor: Box, kind: str) -> None:
        """A tensor that is read outside of the one module that is shown."""
        item = self.rep[tensor.id]
        if kind in ("saved", "constant"):
            return
        key = (tensor.column, -1_000_000_000 - tensor.id)
        if key not in self.keys:
            port = Item(len(self.items), tensor.column, self.root, None, [tensor], port="to")
            self.items.append(port)
            self.keys[key] = port
        port = self.keys[key]
        links.setdefault((item.id, port.id, tensor.id, kind), Link(item.id, port.id, tensor, kind, ""))

    # ------------------------------------------------------------------------------------------ the mirror
    def _hang(self) -> None:
        """Each item of a backward pass hangs on a forward item, at whose height it is drawn."""
        forward = [item for item in self.items if item.column == 0]
        modules = {item.module: item for item in forward if item.module is not None}
        for item in sorted(self.items, key=lambda item: item.column):
            if item.column == 0:
                continue
            if item.module is not None:
                item.of = modules[item.module].id if item.module in modules else None
            else:
                item.of = self._hook(item)

    def _hook(self, item: Item) -> int | None:
        box = item.box
        if box.kind == "accumulate" and box.of is not None:
            readers = [e.target for e in self.boxes[box.of].readers if self.boxes[e.target].column == 0]
            users = [self.rep[r] for r in readers if r in self.rep and self.rep[r].column == 0]
            if users:
                return min(users, key=lambda user: user.box.id).id
        seen, last = 0, None
        of = box.of if box.of is not None else box.gradient_of
        if of is None and box.readers:
            of = self.boxes[box.readers[0].target].of
        while of is not None and seen < 8:
            hook = self.rep.get(self._stands_for(of))
            if hook is not None and hook.column == 0:
                return hook.id
            last = hook.id if hook is not None and 0 < hook.column < item.column else last
            box, seen = self.boxes[of], seen + 1
            of = box.of if box.of is not None else next(
                (e.target for e in box.readers if self.boxes[e.target].column == 0), None)
        return last if last is None or self.items[last].of is None else self.items[last].of

    def _frames(self) -> dict[Path, Frame]:
        frames: dict[Path, Frame] = {}
        for item in self.items:
            for n in range(len(self.root) + 1, len(item.path) + 1):
                path = item.path[:n]
                if path not in frames:
                    repeat = self.tree.repeats.get(path)
                    shown = repeat is not None and repeat.members[-1] in self.hidden
                    members = repeat.members if repeat is not None and shown else [path]
                    held = [self.boxes[i] for p in members for i in self.tree.modules[p].boxes]
                    frames[path] = Frame(path, repeat.note if repeat is not None and shown else "", len(members), held)
        return frames
