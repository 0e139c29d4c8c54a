"""`microtfm translate RUN TEXT --show attention|beam`: a translation with a picture of how it came about."""
from __future__ import annotations

from pathlib import Path
from typing import Literal

from microtfm import atomic
from microtfm.errors import UserError
from microtfm.picture_page import page
from microtfm.place import note
from microtfm.translator import Translator

Show = Literal["attention", "beam"]
WIDTH = 4                                # of the beam that is shown where none was asked for


def beside(model: Path, name: str) -> Path:
    """Where a picture goes: into the run folder, or beside the exported model."""
    return model / name if model.is_dir() else model.with_name(f"{model.stem}.{name}")


def show(run: Path, sentences: list[str], what: Show, beam: int | None, length_penalty: float | None,
         out: Path | None, place: str = "") -> int:
    """Translate one sentence, print the translation, and draw it. place: what to say of the device. Returns the exit
    code."""
    if len(sentences) != 1:
        raise UserError(f"--show {what} draws one sentence; {len(sentences)} were given.")
    out = out if out is not None else beside(run, f"{what}.svg")
    if out.suffix not in (".svg", ".html"):
        raise UserError(f"--out {out}: the picture's name must end in .svg or .html.")
    translator = Translator.load(run)
    note(place)
    line = sentences[0]
    if what == "attention":
        from microtfm.attention_map import attention_svg, strongest
        weights, source, target = translator.attention(line, beam, length_penalty)
        text = translator.translate([line], beam, length_penalty)[0]
        picture = attention_svg(weights, source, target, title=f"{line} → {text}")
        table = strongest(weights, source, target)
    else:
        from microtfm.beam_tree import beam_svg, hypotheses, search
        width, penalty = translator.search(beam, length_penalty)
        width = width if width > 1 else WIDTH
        tree = search(translator, line, width, penalty)
        text = translator.translate([line], width, penalty)[0]
        picture = beam_svg(tree, translator, f"{line} → {text}")
        table = hypotheses(tree, translator)
    if out.suffix == ".html":
        picture = page(picture, line, *table)
    atomic.write(out, [picture.encode()])
    print(f"{text}\npicture {out}")
    return 0
