"""The models that can be trained, by their kind."""
from __future__ import annotations

from microtfm.recurrent import Recurrent
from microtfm.settings import ModelSettings
from microtfm.transformer import Transformer

Model = Transformer | Recurrent


def build(settings: ModelSettings, source_size: int, target_size: int) -> Model:
    """A new model for vocabularies of these sizes, its weights drawn from the engine's random numbers."""
    kind = Recurrent if settings.kind == "rnn" else Transformer
    return kind(settings, source_size, target_size)


def describe(settings: ModelSettings) -> str:
    """The model in one line."""
    layers = f"encoder {settings.layers} + decoder {settings.layers} layers, width {settings.d_model}"
    if settings.kind == "rnn":
        return f"recurrent (GRU) with attention, {layers}"
    return f"{settings.norm}-norm Transformer, {layers}, {settings.heads} heads, feed-forward {settings.ffn}"
