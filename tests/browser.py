"""A real browser for tests of pages: headless Chromium or Chrome where one is installed."""
import json
import re
import shutil
import subprocess

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = next((found for name in BROWSERS if (found := shutil.which(name))), None)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--enable-logging=stderr", "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--window-size=1300,900")
PROBE = """<script>(async () => { const out = {errors: window.__errors};
try { %s } catch (e) { out.thrown = String(e); }
const p = document.createElement('pre'); p.textContent = 'RESULT' + JSON.stringify(out) + 'END';
document.body.append(p); })()</script></body>"""
CATCH = """<head><script>window.__errors = []; window.onerror = m => { window.__errors.push(String(m)); };
console.error = (...a) => window.__errors.push(a.join(' '));</script>"""


def need_browser():
    """Skip the test, and say so, where there is no browser."""
    if CHROMIUM is None:
        pytest.skip("pages were not tested in a browser: no Chromium or Chrome is installed")


def run_in(page, script, folder):
    """Open a page and run a script in it, which fills `out`; `out.errors` holds what the console complained of."""
    path = folder / "page.html"
    path.write_text(page.replace("</body>", PROBE % script).replace("<head>", CATCH, 1), encoding="utf-8")
    ran = subprocess.run([CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", "--dump-dom", path.as_uri()],
                         capture_output=True, text=True, timeout=120)
    found = re.search(r"RESULT(\{.*?\})END", ran.stdout, re.S)
    assert found, ran.stdout[-2000:]
    out = json.loads(found[1].replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&"))
    out["errors"] += re.findall(r"CONSOLE.*", ran.stderr)
    return out
