"""Pictures of a translation and of the model's inputs: the beam's tree, attention by head, encoding, masks."""
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from browser import need_browser, run_in
from tiny import corpus, settings

from microtfm import train
from microtfm.beam_tree import beam_svg, search
from microtfm.cli import main
from microtfm.grids import encoding_svg, masks_svg
from microtfm.tokens import EOS
from microtfm.translator import Translator


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    train.train(settings(path, steps=60, validate_every=60, save_every=60, batch_tokens=120), corpus=corpus())
    return path


def test_the_tree_is_the_search(run: Path) -> None:
    translator = Translator.load(run)
    tree = search(translator, "一二三", 3)
    best = [t for t in tree.best if t != EOS]
    assert translator.target.decode(best) == translator.translate(["一二三"], beam=3)[0]
    assert tree.scores[()] == 0.0 and all(p[:-1] in tree.scores for p in [*tree.scores, *tree.ended] if p)
    assert all(tree.scores[p] <= tree.scores[p[:-1]] for p in tree.scores if p), "a longer prefix is less probable"
    assert tree.best in tree.ended and tree.ended[tree.best] == max(tree.ended.values())
    svg = beam_svg(tree, translator, "一二三")
    root = ET.fromstring(svg)
    nodes = list(root.iter("{http://www.w3.org/2000/svg}g"))
    assert len(nodes) == len(set(tree.scores) | set(tree.ended)) and "一二三" in svg and "#15803d" in svg


@pytest.mark.parametrize("what", ["attention", "beam"])
def test_the_command_draws_beside_the_run(run: Path, what: str, capsys: pytest.CaptureFixture[str],
                                          tmp_path: Path) -> None:
    assert main(["translate", str(run), "一二三", "--show", what]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == f"picture {run / f'{what}.svg'}" and said[0]
    text = (run / f"{what}.svg").read_text(encoding="utf-8")
    ET.fromstring(text)
    assert "一" in text and "<title>" in text
    page = tmp_path / "page.html"
    assert main(["translate", str(run), "一二三", "--show", what, "-o", str(page)]) == 0
    html = page.read_text(encoding="utf-8")
    assert html.startswith("<!doctype html>") and "<table>" in html and "font/woff2" in html
    assert not re.search(r'src="http|href="http|@import', html)


@pytest.mark.parametrize("what", ["attention", "beam"])
def test_the_page_says_what_is_under_the_pointer(run: Path, what: str, tmp_path: Path) -> None:
    need_browser()
    assert main(["translate", str(run), "一二三", "--show", what, "-o", str(tmp_path / "picture.html")]) == 0
    found = run_in((tmp_path / "picture.html").read_text(encoding="utf-8"),
                   "const mark = [...document.querySelectorAll('#picture rect')].find(e => e.querySelector('title') || "
                   "e.parentElement.querySelector(':scope > title') && e.parentElement.tagName === 'g');"
                   "out.tip = (mark.querySelector('title') || mark.parentElement.querySelector('title')).textContent;"
                   "mark.dispatchEvent(new PointerEvent('pointerover', {bubbles: true}));"
                   "out.said = document.getElementById('text').textContent;"
                   "out.lit = document.querySelectorAll('.lit').length;"
                   "out.rows = document.querySelectorAll('tr').length;",
                   tmp_path)
    assert found["errors"] == [] and "thrown" not in found
    assert found["said"].startswith(found["tip"]) and found["rows"] > 1
    assert found["lit"] == (1 if what == "beam" else found["said"].count(", ") + 1)


def test_what_cannot_be_shown(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["translate", str(run), "一", "二", "--show", "beam"]) == 2
    assert "one sentence; 2 were given" in capsys.readouterr().err
    assert main(["translate", str(run), "一", "--show", "beam", "-o", "x.gif"]) == 2
    assert "must end in .svg or .html" in capsys.readouterr().err
    for what in ("beam", "attention"):
        assert main(["translate", str(run), "一二。三。", "--show", what]) == 2
        assert "is translated in 2 pieces" in capsys.readouterr().err


def test_encoding_and_masks_are_drawn_number_by_number() -> None:
    svg = encoding_svg(10, 8)
    assert svg.count("PE[") == 80 + 2 and "PE[0, 1] = 1.000" in svg
    ET.fromstring(svg)
    masks = masks_svg((3, 2), 3)
    ET.fromstring(masks)
    assert masks.count("hidden") == 1 + 3 + 3 and masks.count(": attend<") == 5 + 6 + 9 + 6
