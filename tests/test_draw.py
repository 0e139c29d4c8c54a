"""Pictures: nothing overlaps, no line runs through a box, and what is shown is current."""
import json
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from redraw import EXAMPLES, ROOT, pictures, primes

import engine
from engine import GraphError, Tensor, graph
from engine.draw.raster import placed_dot
from engine.draw.svg import Picture
from engine.kernels.cpu import jit_disabled
from microtfm.cli import main

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def step():
    return graph(primes(layers=2)[1], backward=True)


VIEWS = [{"depth": 1}, {"depth": 2}, {"depth": 3}, {"level": "op"}, {"depth": 0, "inside": "decoder/layers.0"},
         {"inside": "encoder/layers.0/self_attention"}, {"depth": 1, "open": ["decoder/layers.1/feed_forward"]}]


# --- the drawing ----------------------------------------------------------------------------------
@pytest.mark.parametrize("choice", VIEWS, ids=str)
def test_boxes_do_not_overlap_and_no_line_crosses_one(step, choice):
    picture = Picture(step.view(**choice), step.boxes)
    boxes = picture.drawing.boxes
    rows = sorted(boxes.items(), key=lambda entry: entry[1][1])
    for n, (i, (x, y, w, h)) in enumerate(rows):
        for j, (u, v, a, b) in rows[n + 1:n + 12]:
            assert x + w <= u + 0.1 or u + a <= x + 0.1 or y + h <= v + 0.1 or v + b <= y + 0.1, (i, j)
    for route in picture.drawing.routes:
        for (x1, y1), (x2, y2) in zip(route.points, route.points[1:], strict=False):
            lo_x, hi_x, lo_y, hi_y = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
            for i, (x, y, w, h) in boxes.items():
                inside = hi_x > x + 1 and lo_x < x + w - 1 and hi_y > y + 1 and lo_y < y + h - 1
                assert not inside, (route.link, picture.view.items[i])


@pytest.mark.parametrize("choice", VIEWS, ids=str)
def test_texts_do_not_overlap(step, choice):
    picture = Picture(step.view(**choice), step.boxes)
    d = picture.drawing
    places = []
    for label in d.labels:
        x = label.x - label.line.width if label.left else label.x
        places.append((x, label.y - 7, label.line.width, 8))
    for n, (x, y, w, h) in enumerate(places):
        for u, v, a, b in [*places[n + 1:], *d.boxes.values()]:
            assert x + w <= u + 1 or u + a <= x + 1 or y + h <= v + 1 or v + b <= y + 1, (x, y, u, v)
    for item in picture.view.items:
        x, y, w, h = d.boxes[item.id]
        assert all(line.width <= w - picture.words[item.id].pile for line in picture.words[item.id].lines)


def test_backward_stands_at_the_height_of_forward(step):
    picture = Picture(step.view(2), step.boxes)
    boxes = picture.drawing.boxes
    for item in picture.view.items:
        if item.module is not None and item.column == 1 and item.of is not None:
            (_, y, _, h), (_, v, _, b) = boxes[item.id], boxes[item.of]
            assert abs((y + h / 2) - (v + b / 2)) < 1
    left = [boxes[i.id][0] + boxes[i.id][2] for i in picture.view.items if i.column == 0]
    assert max(left) < min(boxes[i.id][0] for i in picture.view.items if i.column == 1)


def test_the_folded_model_fits_a_printed_page():
    """At depth 2 the mirror of the largest size is as tall as A4 and its text no smaller than 5.5 points."""
    from microtfm.drawing import record
    g = graph(record(None, "base"), backward=True)
    picture = Picture(g.view(2), g.boxes)
    scale = min(190 / 25.4 * 72 / picture.drawing.width, 277 / 25.4 * 72 / picture.drawing.height)
    assert 8.5 * scale >= 5.0


def test_the_svg_is_well_formed_with_links_and_titles(step):
    root = ET.fromstring(step.svg(depth=2))
    boxes = [g for g in root.iter(SVG + "g") if "box" in (g.get("class") or "").split()]
    ids = {g.get("id") for g in boxes}
    assert len(ids) == len(boxes) == len(step.view(2).items)
    links = [a.get("href") for a in root.iter(SVG + "a")]
    assert links and {href.lstrip("#") for href in links} <= ids
    edges = [g for g in root.iter(SVG + "g") if (g.get("class") or "").startswith("edge")]
    assert len(edges) == len(step.view(2).links)
    assert all(g.find(SVG + "title").text for g in edges) and root.find(SVG + "title") is not None
    flow = [g.find(SVG + "title").text for g in edges if "saved" not in g.get("class")]
    assert all(re.search(r"[A-Z1].* = \d|scalar|^\d", text) for text in flow), flow
    assert not list(root.iter(SVG + "script"))
    words = " ".join(t for t in root.itertext())
    for wanted in ("forward, downwards", "backward, upwards", "saved for the backward pass", "learns", "batch"):
        assert wanted in words


def test_masks_q_k_v_heads_logits_and_loss_are_named(step):
    text = re.sub(r"<[^>]+>", "", step.svg(level="op"))
    assert {"Q", "K", "V", "H", "logits", "loss"} <= set(re.findall(r"\w+", text))
    assert "source mask" in text and "next tokens" in text


# --- files ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", [".svg", ".html", ".dot", ".json", ".txt"])
def test_a_file_by_its_suffix(tmp_path, suffix):
    x = Tensor([1.0, 2.0], requires_grad=True, name="x")
    path = graph(engine.sum(x * x), backward=True).save(tmp_path / f"g{suffix}")
    assert path.stat().st_size > 200


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
@pytest.mark.parametrize(("suffix", "head"), [(".png", b"\x89PNG"), (".pdf", b"%PDF")])
def test_png_and_pdf_by_graphviz(step, tmp_path, suffix, head):
    assert step.save(tmp_path / f"g{suffix}", depth=2).read_bytes().startswith(head)


def test_the_placed_text_has_the_legend_and_every_box(step):
    """What Graphviz draws for .png and .pdf: boxes at their places, columns' titles, a legend."""
    picture = Picture(step.view(2), step.boxes)
    dot = placed_dot(picture, "a title")
    for word in ("a title", "forward, downwards", "backward, upwards", "saved for the backward pass", "learns"):
        assert word in dot.replace("&#160;", " ")
    assert len(re.findall(r"^  n\d+ \[", dot, re.M)) == len(picture.view.items)
    assert len(re.findall(r"^  ra\d+ -> ", dot, re.M)) == sum(item.residuals > 0 for item in picture.view.items) > 0


def test_without_graphviz_there_is_text_and_a_picture(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    x = Tensor([1.0, 2.0], requires_grad=True, name="x")
    g = graph(engine.sum(x * x), backward=True)
    shown = g._repr_mimebundle_()
    assert "install graphviz" in shown["text/plain"] and shown["image/svg+xml"].startswith("<svg")
    assert "mul" in shown["text/plain"]
    for suffix in (".svg", ".html", ".dot", ".json"):
        assert g.save(tmp_path / f"g{suffix}").exists()
    with pytest.raises(GraphError, match="apt install graphviz"):
        g.save(tmp_path / "g.png")
    with pytest.raises(GraphError, match=r"must end in \.svg"):
        g.save(tmp_path / "g.gif")


def test_the_command(tmp_path, capsys):
    out = tmp_path / "g.json"
    assert main(["graph", "--size", "nano", "--backward", "--depth", "2", "-o", str(out)]) == 0
    data = json.loads(out.read_text(encoding="utf-8"))
    assert data["parameters"] == 62_080 and {i["pass"] for i in data["items"]} == {0, 1}
    assert main(["graph", "--size", "nano"]) == 0
    assert "attention" in capsys.readouterr().out
    assert main(["graph"]) == 2 and "run folder or --size" in capsys.readouterr().err
    assert main(["graph", "--size", "huge"]) == 2 and "nano, toy, tiny, small, base" in capsys.readouterr().err
    assert main(["graph", "--size", "nano", "--open", "nowhere", "-o", str(tmp_path / "g.svg")]) == 2
    capsys.readouterr()
    assert main(["graph", "--size", "nano", "--backward", "--memory", "-o", str(tmp_path / "m.svg")]) == 0
    assert "peak" in (tmp_path / "m.svg").read_text(encoding="utf-8")
    assert main(["graph", "--size", "nano", "--diff", "toy", "--depth", "3", "-o", str(tmp_path / "d.svg")]) == 0
    assert "nano (−) against toy (+)" in (tmp_path / "d.svg").read_text(encoding="utf-8")
    assert main(["graph", "--size", "nano", "--diff", "nano"]) == 0 and "the same graph" in capsys.readouterr().out
    for wrong, said in [(["nano"], "not a run folder but a size: microtfm graph --size nano"),
                        (["nowhere"], "nowhere does not exist"), (["--size", "nano", "--depth", "-1"], "0 or more"),
                        (["--size", "nano", "-o", str(tmp_path / "none" / "g.svg")], "does not exist"),
                        (["--size", "nano", "-o", str(tmp_path / "g.gif")], "must end in .svg"),
                        (["--size", "nano", "-o", str(tmp_path / "g")], "must end in .svg"),
                        (["--size", "nano", "--inside", "encodr"], "no module is called 'encodr'"),
                        (["--size", "nano", "--diff", "nowhere"], "nowhere does not exist"),
                        (["--size", "nano", "--level", "atom"], "atom"),
                        (["--size", "nano", "--memory", "-o", str(tmp_path / "g.html")], "must end in .svg or .txt")]:
        assert main(["graph", *wrong]) == 2, wrong
        complaint = capsys.readouterr().err
        assert said in complaint and complaint.count("\n") == 1, (wrong, complaint)
    assert main(["graph", "--size", "nano", "--unfused", "--level", "op", "-o", str(tmp_path / "u.dot")]) == 0
    assert "softmax" in (tmp_path / "u.dot").read_text(encoding="utf-8")


# --- what is shown is current ---------------------------------------------------------------------
@pytest.mark.skipif(jit_disabled(), reason="the pictures show kernels as boxes")
def test_the_pictures_are_what_the_examples_draw(tmp_path):
    """Words, ticks and tooltips of the README's pictures. After a change that is meant: python tests/redraw.py"""
    pictures(tmp_path)
    drawn = sorted(p.name for p in tmp_path.iterdir())
    assert len(drawn) >= len(EXAMPLES)
    for name in drawn:
        kept = ROOT / "examples" / "pictures" / name
        texts = [list(ET.fromstring(p.read_text(encoding="utf-8")).itertext()) for p in (kept, tmp_path / name)]
        assert texts[0] == texts[1], name
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "examples/pictures/attention_block.svg" in readme and "examples/pictures/transformer.svg" in readme
    for target in re.findall(r"\]\((examples/pictures/[^)]+)\)", readme):
        assert Path(ROOT / target).exists()
