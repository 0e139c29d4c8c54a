"""Where numbers live: moving a tensor between devices is an op, so that gradients find their way back."""
from __future__ import annotations

from typing import Any

from engine import device as devices
from engine.core import Tensor
from engine.record import Op, op
from engine.shapes import Shape


def _places(params: dict[str, Any], s: Shape) -> dict[str, Any]:
    return {"device": devices.named(params["device"]), "source": params["source"]}


def _back(g: Tensor, y: Tensor, x: Tensor, *, device: str, source: str) -> Tensor:
    return to(g, device=source, source=device)


to: Op = op("to", lambda x, *, device, source="cpu": devices.move(x, device), _back, saves=(), view=True,
            signature=None, shape=lambda s, *, device, source: s, canonical=_places,
            choices=lambda s: {"device": [devices.current()], "source": [devices.current()]},
            equation=("Y = X on another device", "X̄ = Ȳ on X's device"),
            doc="The numbers on a device, a copy unless they are there.", shapes="x (…) → (…)",
            about={"device": '"cpu", "cuda" or "auto"',
                   "source": "the device on which they are now, where the gradient goes"},
            raises=("DeviceError: a device that there is not, or that cannot be used",))
