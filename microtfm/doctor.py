"""`microtfm doctor`: what is there, what works, and how to mend what does not."""
from __future__ import annotations

import shutil
import subprocess
from importlib import resources
from typing import Any

import engine

REQUIRED = ("Python", "NumPy", "Numba", "threads", "SIMD", "kernels on cpu")


def examine() -> dict[str, Any]:
    """The findings as plain values, and whether all that is needed is in order."""
    found = [*engine.health(), _graphviz(), _font()]
    needed = [f for f in found if f.name in REQUIRED]
    return {"ok": all(f.ok for f in needed) and not any(f.ok is False for f in found if "cuda" in f.name),
            "findings": [{"name": f.name, "ok": f.ok, "found": f.found, "fix": f.fix} for f in found]}


def as_text(answer: dict[str, Any]) -> str:
    """A line each: ok, no, or a dash for what is missing and not needed; below it how to change that."""
    lines = []
    for each in answer["findings"]:
        mark = {True: "ok", False: "NO", None: "-"}[each["ok"]]
        lines.append(f"{mark:<3} {each['name']:<15} {each['found']}")
        if each["fix"] and not each["ok"]:
            lines.append(f"{'':<19} → {each['fix']}")
    return "\n".join([*lines, "", "All that is needed works." if answer["ok"] else "Something needs mending."])


def _graphviz() -> engine.Finding:
    """For pictures as PNG and PDF; SVG and HTML need nothing."""
    dot = shutil.which("dot")
    if dot is None:
        return engine.Finding("Graphviz", None, "not installed: pictures are SVG and HTML, not PNG or PDF",
                              "apt install graphviz, brew install graphviz, or https://graphviz.org/download")
    try:
        said = subprocess.run([dot, "-V"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as e:
        return engine.Finding("Graphviz", False, f"{dot} does not run: {e}", "install it anew")
    return engine.Finding("Graphviz", True, (said.stderr or said.stdout).strip())


def _font() -> engine.Finding:
    """Chinese characters in pictures: SVG carries its own; PNG and PDF take the system's."""
    own = resources.files("microtfm").joinpath("fonts/toy-cjk.woff2").is_file()
    if not own:
        return engine.Finding("CJK font", False, "the font that pictures carry is missing", "install microtfm anew")
    lister = shutil.which("fc-list")
    fonts = ""
    if lister is not None:
        try:
            fonts = subprocess.run([lister, ":lang=zh", "family"], capture_output=True, text=True, timeout=20,
                                   check=False).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            fonts = ""
    if fonts:
        return engine.Finding("CJK font", True, f"pictures carry their own; the system has {fonts.splitlines()[0]}")
    return engine.Finding("CJK font", None, "pictures carry their own for the demo's characters; the system has none",
                          "for others, and for PNG and PDF: apt install fonts-noto-cjk")
