"""JAX's side of `bench step`: the whole step, from the ids to the updated parameters, one jitted function.

Written with jax.numpy. Parameters are named as ours: `encoder.layers.0.self_attention.query.weight`.
"""
from __future__ import annotations

import math
import os
from typing import Any

from microtfm.bench.sides import on_card

os.environ["JAX_PLATFORMS"] = "cuda" if on_card() else "cpu"     # before JAX is imported; it fails where there is none

import jax
import jax.numpy as jnp
import numpy as np

from microtfm.bench.sizes import Size
from microtfm.bench.stepping import BETAS, CLIP, EPSILON, LEARNING_RATE, SMOOTHING, Stepper
from microtfm.layers import sinusoids

Parameters = dict[str, Any]
GENERATOR = "rbg"                        # JAX's fastest random bits on a CPU; its default, threefry, costs more


def initial(size: Size) -> Parameters:
    """Random parameters, each under our name, linear weights as (inputs, outputs)."""
    rng, made = np.random.default_rng(0), {}
    d, f, v = size.d_model, size.ffn, size.vocabulary

    def linear(name: str, inputs: int, outputs: int, bias: bool = True) -> None:
        limit = math.sqrt(6 / (inputs + outputs))
        made[f"{name}.weight"] = rng.uniform(-limit, limit, (inputs, outputs))
        if bias:
            made[f"{name}.bias"] = np.zeros(outputs)

    def norm(name: str) -> None:
        made[f"{name}.weight"], made[f"{name}.bias"] = np.ones(d), np.zeros(d)

    for side in ("source", "target"):
        made[f"{side}_embedding.weight"] = rng.normal(0, d ** -0.5, (v, d))
    for stack, attentions in (("encoder", ["self"]), ("decoder", ["self", "cross"])):
        for layer in (f"{stack}.layers.{i}" for i in range(size.layers)):
            for kind in attentions:
                for part in ("query", "key", "value", "output"):
                    linear(f"{layer}.{kind}_attention.{part}", d, d)
            linear(f"{layer}.feed_forward.linear1", d, f)
            linear(f"{layer}.feed_forward.linear2", f, d)
            for i in range(1, len(attentions) + 2):
                norm(f"{layer}.norm{i}")
        norm(f"{stack}.norm")
    linear("projection", d, v, bias=False)
    return {name: jnp.asarray(value, jnp.float32) for name, value in made.items()}


class Forward:
    """The forward pass for one batch: parameters, and a stream of random keys for dropout."""

    def __init__(self, size: Size, parameters: Parameters, key: Any) -> None:
        self.size, self.parameters, self.key = size, parameters, key

    def dropout(self, x: Any) -> Any:
        """Zero a share of x, scale the rest."""
        if not self.size.dropout:
            return x
        self.key, key = jax.random.split(self.key)
        keep = 1 - self.size.dropout
        return jnp.where(jax.random.bernoulli(key, keep, x.shape), x / keep, 0.0)

    def linear(self, name: str, x: Any) -> Any:
        """x W + b."""
        return x @ self.parameters[f"{name}.weight"] + self.parameters[f"{name}.bias"]

    def norm(self, name: str, x: Any) -> Any:
        """Layer norm."""
        centred = x - x.mean(-1, keepdims=True)
        y = centred / jnp.sqrt((centred * centred).mean(-1, keepdims=True) + 1e-5)
        return y * self.parameters[f"{name}.weight"] + self.parameters[f"{name}.bias"]

    def attention(self, name: str, x: Any, memory: Any, causal: bool) -> Any:
        """Multi-head attention of x (B, T, D) over memory (B, S, D)."""
        h = self.size.heads

        def split(part: str, y: Any) -> Any:
            y = self.linear(f"{name}.{part}", y)
            return y.reshape(*y.shape[:2], h, -1).swapaxes(1, 2)                                   # (B, H, T, K)

        q, k, v = split("query", x), split("key", memory), split("value", memory)
        scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])                                   # (B, H, T, S)
        if causal:
            scores = jnp.where(jnp.tril(jnp.ones(scores.shape[-2:], bool)), scores, -jnp.inf)
        weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
        y = self.dropout(weights / weights.sum(-1, keepdims=True)) @ v
        return self.linear(f"{name}.output", y.swapaxes(1, 2).reshape(x.shape))                    # (B, T, D)

    def feed_forward(self, name: str, x: Any) -> Any:
        """max(0, x W₁ + b₁) W₂ + b₂."""
        inner = jnp.maximum(self.linear(f"{name}.linear1", x), 0.0)
        return self.linear(f"{name}.linear2", self.dropout(inner))

    def stack(self, name: str, x: Any, memory: Any = None) -> Any:
        """The encoder, or with a memory the decoder: post-norm layers and a final norm."""
        for layer in (f"{name}.layers.{i}" for i in range(self.size.layers)):
            sublayers = [lambda x, at=layer: self.attention(f"{at}.self_attention", x, x, memory is not None)]
            if memory is not None:
                sublayers.append(lambda x, at=layer: self.attention(f"{at}.cross_attention", x, memory, False))
            sublayers.append(lambda x, at=layer: self.feed_forward(f"{at}.feed_forward", x))
            for i, sublayer in enumerate(sublayers, 1):
                x = self.norm(f"{layer}.norm{i}", x + self.dropout(sublayer(x)))
        return self.norm(f"{name}.norm", x)

    def loss(self, source: Any, target_in: Any, target_out: Any) -> Any:
        """Mean cross-entropy with label smoothing."""
        d = self.size.d_model
        positions = sinusoids(self.size.length, d)

        def embed(side: str, ids: Any) -> Any:
            return self.dropout(self.parameters[f"{side}_embedding.weight"][ids] * math.sqrt(d) + positions)

        memory = self.stack("encoder", embed("source", source))
        logits = self.stack("decoder", embed("target", target_in), memory) @ self.parameters["projection.weight"]
        top = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
        log_sum = jnp.log(jnp.exp(logits - top).sum(-1)) + top[..., 0]
        right = jnp.take_along_axis(logits, target_out[..., None], -1)[..., 0]
        return (log_sum - (1 - SMOOTHING) * right - SMOOTHING * logits.mean(-1)).mean()


def adam(p: Any, g: Any, m: Any, v: Any, n: Any) -> tuple[Any, Any, Any]:
    """The parameter and its running averages after update number n."""
    beta1, beta2 = BETAS
    m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
    return p - LEARNING_RATE * (m / (1 - beta1 ** n)) / (jnp.sqrt(v / (1 - beta2 ** n)) + EPSILON), m, v


class JaxStep(Stepper):
    """Gradient, clipping and Adam in one compiled function, whose buffers are used again."""

    def build(self) -> None:
        size = self.size
        parameters = initial(size)
        m, v = ({name: jnp.zeros_like(p) for name, p in parameters.items()} for _ in range(2))
        self.state = parameters, m, v, jnp.zeros((), jnp.int32)
        key = jax.random.key(0, impl=GENERATOR)
        self._arrays = [tuple(jnp.asarray(ids, jnp.int32) for ids in batch) for batch in self._batches]

        def step(state: Any, batch: Any) -> Any:
            parameters, ms, vs, n = state
            fresh = jax.random.fold_in(key, n)
            loss, gradients = jax.value_and_grad(lambda p: Forward(size, p, fresh).loss(*batch))(parameters)
            norm = jnp.sqrt(sum((g * g).sum() for g in gradients.values()))
            scale, n = jnp.minimum(1.0, CLIP / norm), n + 1
            new = {name: adam(p, gradients[name] * scale, ms[name], vs[name], n) for name, p in parameters.items()}
            return (*({name: values[i] for name, values in new.items()} for i in range(3)), n), loss

        self._step = jax.jit(step, donate_argnums=0)

    def count(self) -> int:
        return sum(int(p.size) for p in self.state[0].values())

    def train_on(self, batch: int) -> float:
        self.state, loss = self._step(self.state, self._arrays[batch])
        jax.block_until_ready(self.state)
        return float(loss)
