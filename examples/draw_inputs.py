"""What the model is given besides its ids: the positional encoding and the masks, drawn."""
import sys
from pathlib import Path

from microtfm.grids import encoding_svg, masks_svg
from microtfm.layers import sinusoids

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures"
for name, svg in (("positions.svg", encoding_svg()), ("masks.svg", masks_svg())):
    (folder / name).write_text(svg, encoding="utf-8")

table = sinusoids(40, 48)
assert table[0, 0] == 0 and table[0, 1] == 1             # sin 0 and cos 0
assert abs(table).max() <= 1
print(f"drawn in {folder}: positions.svg, masks.svg")
