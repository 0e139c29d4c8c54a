"""Learning curves: every number where it belongs, whatever the lines hold, and a page that answers the pointer."""
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from browser import need_browser, run_in

from microtfm.curves import curves_svg, draw, panels_of, thinned, ticks
from microtfm.errors import UserError

SVG = "{http://www.w3.org/2000/svg}"
LINES = [{"step": s, "loss": 8 / s, "lr": 1e-4 * s} for s in range(10, 200, 10)] + [
    {"step": s, "valid_loss": 9 / s, "bleu": s / 4, "chrf": s / 3} for s in (60, 120, 190)]


def written(folder: Path, lines: list[dict]) -> Path:
    path = folder / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_the_files_stand_side_by_side(tmp_path: Path) -> None:
    assert draw(written(tmp_path, LINES), tmp_path / "curves.svg")
    svg, page = (tmp_path / "curves.svg").read_text("utf-8"), (tmp_path / "curves.html").read_text("utf-8")
    root = ET.fromstring(svg)
    titles = [t.text for t in root.iter(SVG + "title")]
    assert "BLEU at step 120: 30" in titles and "validation at step 60: 0.15" in titles and svg in page
    said = [t.text for t in root.iter(SVG + "text")]
    for word in ("loss a token", "validation score", "learning rate", "training", "validation", "BLEU", "chrF", "step"):
        assert word in said
    assert not re.search(r'src="http|href="http|@import', page)


def test_a_point_stands_at_its_step_and_value() -> None:
    panels = panels_of(LINES)
    root = ET.fromstring(curves_svg(panels, "t"))
    circles = [c for c in root.iter(SVG + "circle") if (c.findtext(SVG + "title") or "").startswith("BLEU")]
    ys = [float(c.get("cy")) for c in circles]
    assert ys[0] - ys[1] == pytest.approx((30 - 15) / 100 * panels[1].height, abs=0.2)
    assert ys[1] - ys[2] == pytest.approx((47.5 - 30) / 100 * panels[1].height, abs=0.2)


def test_nothing_to_show_writes_nothing(tmp_path: Path) -> None:
    assert not draw(tmp_path / "metrics.jsonl", tmp_path / "curves.svg")
    assert not draw(written(tmp_path, [{"step": 1, "note": "x"}]), tmp_path / "curves.svg")
    assert not (tmp_path / "curves.svg").exists()


@pytest.mark.parametrize("lines", [
    [{"step": 1, "loss": 0.0}], [{"step": 5, "loss": float("nan")}, {"step": 6, "loss": 1.0, "lr": 0}],
    [{"step": 1, "loss": 2.0}, {"step": 1, "valid_loss": 1.0, "bleu": 0.0}], [{"step": 3, "loss": 1e12, "lr": 1e-12}]])
def test_odd_lines_are_drawn(lines: list[dict]) -> None:
    svg = curves_svg(panels_of(lines), "a < b")
    ET.fromstring(svg)
    assert "nan" not in svg and "inf" not in svg


def test_many_steps_are_thinned_to_means() -> None:
    points = thinned([(float(i), float(i % 2)) for i in range(100_001)], 500)
    assert len(points) <= 501 and points[-1] == (100_000.0, 0.0)
    assert all(abs(y - 0.5) < 0.01 for _, y in points[:-1])
    assert thinned([(1.0, 2.0)], 5) == [(1.0, 2.0)]


def test_ticks_are_round_numbers() -> None:
    assert ticks(0, 7.2, 5) == [0, 2, 4, 6] and ticks(0, 0.0011, 3) == pytest.approx([0, 0.0005, 0.001])
    assert ticks(120, 130, 8) == [120, 122, 124, 126, 128, 130]


def test_unwritable(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="could not be written"):
        draw(written(tmp_path, LINES), tmp_path / "none" / "curves.svg")


def test_the_page_answers_the_pointer_and_the_keys(tmp_path: Path) -> None:
    need_browser()
    draw(written(tmp_path, LINES), tmp_path / "curves.svg")
    page = (tmp_path / "curves.html").read_text("utf-8")
    found = run_in(page, "out.last = curves.state().text; "
                         "const r = document.querySelector('svg').getBoundingClientRect();"
                         "document.querySelector('svg').dispatchEvent(new PointerEvent('pointermove', "
                         "{clientX: r.left + r.width * 64 / 860, clientY: r.top + 99, bubbles: true}));"
                         "out.first = curves.state().text; document.querySelector('#picture').dispatchEvent("
                         "new KeyboardEvent('keydown', {key: 'ArrowRight'})); out.next = curves.state().text;"
                         "document.querySelector('#now button').click(); out.off = "
                         "document.querySelectorAll('g.off').length; "
                         "out.rows = document.querySelectorAll('tr').length;",
                   tmp_path)
    assert found["errors"] == [] and "thrown" not in found
    assert found["last"].startswith("step 190") and "47.5" in found["last"]
    assert found["first"].startswith("step 10") and "0.8" in found["first"] and found["next"].startswith("step 20")
    assert found["off"] == 2 and found["rows"] == 4
