"""Random programs: a state machine builds graphs of ops, and an independent reference says what they must give.

The reference is PyTorch where it is installed, else NumPy with slopes by differences: it uses no rule of the engine.
`python -m tests.programs 10000` runs that many.
"""
import sys

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import engine
from engine import Tensor, grad, no_grad

try:
    import torch
except ImportError:
    torch = None

SHAPES = [(), (1,), (3,), (2, 3), (2, 1), (1, 3), (2, 2, 3)]
LIMIT = 1e4                              # programs whose numbers grow beyond are not continued

# name -> (ours, PyTorch's, NumPy's), all smooth where they are used
UNARY = {
    "tanh": (engine.tanh, lambda t: t.tanh(), np.tanh),
    "sin": (engine.sin, lambda t: t.sin(), np.sin),
    "sigmoid": (engine.sigmoid, lambda t: t.sigmoid(), lambda x: 1 / (1 + np.exp(-x))),
    "exp of tanh": (lambda t: t.tanh().exp(), lambda t: t.tanh().exp(), lambda x: np.exp(np.tanh(x))),
    "neg": (lambda t: -t, lambda t: -t, np.negative),
    "square": (lambda t: t * t, lambda t: t * t, np.square),
    "gelu": (engine.gelu, lambda t: torch.nn.functional.gelu(t),
             lambda x: 0.5 * x * (1 + np.vectorize(__import__("math").erf, otypes=[float])(x / 2**0.5))),
    "log": (lambda t: (t * t + 1.0).log(), lambda t: (t * t + 1).log(), lambda x: np.log(x * x + 1)),
}
BINARY = {
    "add": (lambda a, b: a + b,) * 3,
    "sub": (lambda a, b: a - b,) * 3,
    "mul": (lambda a, b: a * b,) * 3,
    "div": (lambda a, b: a / (b * b + 1.0),) * 3,
}
VIEWS = {
    "transpose": (lambda t: t.T, lambda t: t.permute(tuple(reversed(range(t.ndim)))), np.transpose),
    "flatten": (lambda t: t.reshape(-1), lambda t: t.reshape(-1), lambda x: x.reshape(-1)),
    "first axis": (lambda t: t.reshape(1, *t.shape), lambda t: t.reshape(1, *t.shape), lambda x: x[None]),
    "backwards": (lambda t: t.reshape(-1)[::-1], lambda t: t.reshape(-1).flip(0), lambda x: x.reshape(-1)[::-1]),
    "every other": (lambda t: t.reshape(-1)[::2], lambda t: t.reshape(-1)[::2], lambda x: x.reshape(-1)[::2]),
}
REDUCE = {
    "sum": (lambda t: t.sum(axis=-1), lambda t: t.sum(-1), lambda x: x.sum(-1)),
    "mean": (lambda t: t.mean(axis=0), lambda t: t.mean(0), lambda x: x.mean(0)),
    "softmax": (engine.softmax, lambda t: t.softmax(-1), lambda x: (lambda e: e / e.sum(-1, keepdims=True))(
        np.exp(x - x.max(-1, keepdims=True)))),
    "logsumexp": (lambda t: t.logsumexp(axis=-1), lambda t: t.logsumexp(-1),
                  lambda x: x.max(-1) + np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1))),
    "cumsum": (lambda t: t.cumsum(axis=-1), lambda t: t.cumsum(-1), lambda x: x.cumsum(-1)),
}
SMALL = st.integers(0, 10**6)


class Programs(RuleBasedStateMachine):
    """One program: every value is kept three times, as ours, as PyTorch's, and as a function of the leaves in NumPy."""

    @initialize(shapes=st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3), seed=st.integers(0, 2**16))
    def leaves(self, shapes, seed):
        rng = np.random.default_rng(seed)
        self.arrays = [rng.integers(-64, 65, s) / 48 for s in shapes]
        self.ours = [Tensor(a, requires_grad=True, name=f"x{i}") for i, a in enumerate(self.arrays)]
        self.torch = [torch.tensor(a, requires_grad=True) for a in self.arrays] if torch else None
        self.values = []                 # (ours, PyTorch's, NumPy function of the leaves)
        for i in range(len(shapes)):
            self.values.append((self.ours[i], self.torch[i] if torch else None, lambda xs, i=i: xs[i]))

    def _take(self, k):
        return self.values[k % len(self.values)]

    def _keep(self, ours, theirs, plain):
        if ours.size <= 64 and np.all(np.abs(ours.numpy()) < LIMIT):
            self.values.append((ours, theirs, plain))

    def _apply(self, table, name, *operands):
        ours, theirs, plain = table[name]
        self._keep(ours(*(v[0] for v in operands)), theirs(*(v[1] for v in operands)) if torch else None,
                   lambda xs: plain(*(v[2](xs) for v in operands)))

    @rule(name=st.sampled_from([*UNARY]), k=SMALL)
    def one(self, name, k):
        self._apply(UNARY, name, self._take(k))

    @rule(name=st.sampled_from([*BINARY]), k=SMALL, j=SMALL)
    def two(self, name, k, j):
        a, b = self._take(k), self._take(j)
        try:
            np.broadcast_shapes(a[0].shape, b[0].shape)
        except ValueError:
            return
        self._apply(BINARY, name, a, b)

    @rule(k=SMALL, j=SMALL)
    def product(self, k, j):
        a, b = self._take(k), self._take(j)
        if a[0].ndim and b[0].ndim >= 2 and a[0].shape[-1] == b[0].shape[-1]:
            ours, theirs = a[0] @ b[0].mT if a[0].ndim <= 2 and b[0].ndim == 2 else None, None
            if ours is not None:
                theirs = a[1] @ b[1].mT if torch else None
                self._keep(ours, theirs, lambda xs: a[2](xs) @ b[2](xs).T)

    @rule(name=st.sampled_from([*VIEWS]), k=SMALL)
    def view(self, name, k):
        self._apply(VIEWS, name, self._take(k))

    @rule(name=st.sampled_from([*REDUCE]), k=SMALL)
    def reduce(self, name, k):
        v = self._take(k)
        if v[0].ndim:
            self._apply(REDUCE, name, v)

    @rule(k=SMALL, how=st.sampled_from(["detach", "no_grad", "constant"]))
    def stop(self, k, how):
        """A value whose gradient stops here."""
        ours, theirs, _ = self._take(k)
        if how == "no_grad":
            with no_grad():
                ours = ours * 1.0
        else:
            ours = ours.detach() if how == "detach" else engine.constant(ours)
        fixed = ours.numpy()
        self._keep(ours, theirs.detach() if torch else None, lambda xs: fixed)

    @precondition(lambda self: len(self.values) < 24)
    @rule(k=SMALL)
    def inner_gradient(self, k):
        """A gradient, itself part of the program: second order."""
        ours, theirs, _ = self._take(k)
        if not torch or not ours.requires_grad:
            return
        first = grad(engine.sin(ours).sum(), self.ours[0], create_graph=True)
        second = torch.autograd.grad(theirs.sin().sum(), self.torch[0], create_graph=True, allow_unused=True)[0]
        if second is not None and first.requires_grad and second.requires_grad:
            self._keep(first, second, None)

    @invariant()
    def agrees(self):
        """The last value, and its gradient with respect to every leaf, are the reference's."""
        if not getattr(self, "values", None):
            return
        ours, theirs, plain = self.values[-1]
        if torch:
            np.testing.assert_allclose(ours.numpy(), theirs.detach().numpy(), rtol=1e-9, atol=1e-10)
        elif plain is not None:
            np.testing.assert_allclose(ours.numpy(), plain(self.arrays), rtol=1e-9, atol=1e-10)

    def teardown(self):
        if not getattr(self, "values", None):
            return
        ours, theirs, plain = self.values[-1]
        if not ours.requires_grad:
            assert theirs is None or not theirs.requires_grad
            return
        weights = np.cos(np.arange(ours.size) + 1.0).reshape(ours.shape)
        found = [g.numpy() for g in grad(ours, self.ours, weights)]
        if torch:
            wanted = torch.autograd.grad(theirs, self.torch, torch.tensor(weights), allow_unused=True)
            wanted = [np.zeros(a.shape) if g is None else g.numpy() for g, a in zip(wanted, self.arrays, strict=True)]
            for g, w in zip(found, wanted, strict=True):
                np.testing.assert_allclose(g, w, rtol=1e-8, atol=1e-9 * (1 + np.abs(w).max(initial=0)))
        elif plain is not None:
            self._by_differences(plain, weights, found)

    def _by_differences(self, plain, weights, found):
        for i, g in enumerate(found):
            way, h = np.cos(np.arange(g.size) * 3.0).reshape(g.shape), 1e-5
            up, down = ([x + s * h * way if k == i else x for k, x in enumerate(self.arrays)] for s in (1, -1))
            slope = np.sum(weights * (plain(up) - plain(down))) / (2 * h)
            np.testing.assert_allclose(np.sum(g * way), slope, rtol=1e-4, atol=1e-5 * (1 + np.abs(g).max(initial=0)))


def run(programs, steps=12, seed=0):
    """Build so many programs. Raises with the smallest program that goes wrong."""
    from hypothesis import seed as seeded
    from hypothesis.stateful import run_state_machine_as_test
    kind = settings(max_examples=programs, stateful_step_count=steps, deadline=None, database=None,
                    report_multiple_bugs=False, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(seeded(seed)(Programs), settings=kind)


if __name__ == "__main__":
    many, first = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000, int(sys.argv[2]) if len(sys.argv) > 2 else 0
    run(many, seed=first)
    print(f"{many} programs agree with {'PyTorch' if torch else 'NumPy and differences'}")
