"""The attention picture: well-formed, complete, readable anywhere."""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ElementTree
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microtfm import toy
from microtfm.attention_map import attention_svg
from microtfm.errors import UserError

SVG = "{http://www.w3.org/2000/svg}"
SOURCE, TARGET = [*"我买了三本书。", "<eos>"], ["I", "bought", "three", "books", ".", "<eos>"]


def weights(*shape: int) -> np.ndarray:
    made = np.random.default_rng(0).random(shape)
    return made / made.sum(axis=-1, keepdims=True)


def cells(text: str) -> list[ElementTree.Element]:
    return [rect for rect in ElementTree.fromstring(text).iter(SVG + "rect") if rect.find(SVG + "title") is not None]


def test_one_cell_a_weight_and_one_panel_a_head(tmp_path: Path) -> None:
    path = tmp_path / "map.svg"
    text = attention_svg(weights(2, 4, 6, 8), SOURCE, TARGET, path, title="A & B")
    assert path.read_text(encoding="utf-8") == text
    assert len(cells(text)) == 2 * 4 * 6 * 8
    said = [element.text for element in ElementTree.fromstring(text).iter(SVG + "text")]
    assert said.count("books") == said.count("书") == 8 and "layer 2, head 4" in said and "A & B" in said


def test_hover_and_shade_tell_the_weight() -> None:
    matrix = np.zeros((2, 2))
    matrix[0, 0], matrix[1, 0], matrix[1, 1] = 1.0, 0.25, 0.75
    drawn = cells(attention_svg(matrix, ["猫", "<b>"], ["cat", "x"]))
    titles = [rect.findtext(SVG + "title") for rect in drawn]
    assert titles == ["cat ← 猫: 1.000", "cat ← <b>: 0.000", "x ← 猫: 0.250", "x ← <b>: 0.750"]
    shades = [int(rect.get("fill", "")[1:3], 16) for rect in drawn]
    assert shades[0] < shades[3] < shades[2] < shades[1]


def test_the_font_is_carried_where_it_is_needed() -> None:
    text = attention_svg(weights(1, 1), ["猫"], ["cat"])
    carried = re.search(r"data:font/woff2;base64,([A-Za-z0-9+/=]+)", text)
    assert carried and base64.b64decode(carried[1])[:4] == b"wOF2"
    assert "font/woff2" not in attention_svg(weights(1, 1), ["a"], ["b"])


def test_the_font_has_every_character_of_the_demo() -> None:
    ttlib = pytest.importorskip("fontTools.ttLib")
    pytest.importorskip("brotli")
    folder = resources.files("microtfm").joinpath("fonts")
    with folder.joinpath("toy-cjk.woff2").open("rb") as file:
        font = ttlib.TTFont(file)
        has = set(font.getBestCmap())
    training, held_out = toy.corpus()
    needed = {ord(char) for pair in (*training, *held_out) for char in pair.zh + pair.en}
    assert needed <= has
    assert folder.joinpath("toy-cjk.woff2").read_bytes().__len__() < 150_000
    assert "SIL OPEN FONT LICENSE" in folder.joinpath("OFL.txt").read_text(encoding="utf-8")


@given(st.lists(st.text(max_size=30), min_size=1, max_size=4), st.lists(st.text(max_size=30), min_size=1, max_size=4))
def test_any_pieces_make_well_formed_xml(source: list[str], target: list[str]) -> None:
    text = attention_svg(weights(len(target), len(source)), source, target, title="".join(source))
    assert len(cells(text)) == len(source) * len(target)
    text.encode("utf-8")


def test_nothing_lies_outside_the_picture() -> None:
    source = ["▁她", "喜欢", "extraordinarily-long-word"]
    root = ElementTree.fromstring(attention_svg(weights(3, 3, 6, 3), source, TARGET))
    width, height = float(root.get("width", "")), float(root.get("height", ""))
    for group in root.iter(SVG + "g"):
        place = re.fullmatch(r"translate\(([\d.]+) ([\d.]+)\)", group.get("transform", ""))
        assert place
        for rect in group.iter(SVG + "rect"):
            assert float(place[1]) + float(rect.get("x", "")) + 22 <= width
            assert float(place[2]) + float(rect.get("y", "")) + 22 <= height


def test_odd_weights_are_drawn() -> None:
    text = attention_svg([[float("nan"), 2.0, -1.0]], ["a", "b", "c"], ["x"])
    assert "not a number" in text and len(cells(text)) == 3
    assert cells(attention_svg(np.zeros((0, 0)), [], [])) == []


@pytest.mark.parametrize("shape", [(6,), (2, 6, 8), (8, 6), (1, 1, 6, 7)])
def test_wrong_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shape|must be"):
        attention_svg(np.zeros(shape), SOURCE, TARGET)


def test_unwritable(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="could not be written"):
        attention_svg(weights(1, 1), ["a"], ["b"], tmp_path / "none" / "map.svg")
