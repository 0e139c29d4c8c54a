"""Checking gradients, for this engine and any other.

    from engine.check import check_op, check_vjp, gradcheck
    gradcheck(lambda x, w: (x @ w).tanh(), [x, w], order=2)      # any function of tensors
    check_op(my_op)                                              # one op: everything that its record promises
    check_vjp(np.tanh, lambda g, x: (g * (1 - np.tanh(x)**2),), [x])     # NumPy functions of any framework

No absolute tolerance exists: steps are searched for, slopes carry their own error bars, kinks are decided by the slopes
of their two sides, and where the numbers cannot tell the verdict is "inconclusive". PyTorch and JAX, in three lines:

    f = lambda *xs: torch_f(*map(torch.from_numpy, xs)).numpy()
    vjp = lambda g, *xs: [t.numpy() for t in torch.autograd.functional.vjp(
        torch_f, tuple(map(torch.from_numpy, xs)), torch.from_numpy(g))[1]]

    f = lambda *xs: np.asarray(jax_f(*xs))
    vjp = lambda g, *xs: [np.asarray(t) for t in jax.vjp(jax_f, *xs)[1](g)]
    jax.config.update("jax_enable_x64", True)
"""
from engine.check.bench import SelfCheck, selfcheck
from engine.check.gradients import gradcheck, tolerance
from engine.check.ops import WIDE, check_gradients, check_meaning, check_op, check_shape_rule, differentiable, terms
from engine.check.property import gradient_test
from engine.check.pullback import check_vjp
from engine.check.report import CheckError, Finding, GradcheckError, InconclusiveWarning, Report
from engine.check.strategies import Call, calls

__all__ = ["WIDE", "Call", "CheckError", "Finding", "GradcheckError", "InconclusiveWarning", "Report", "SelfCheck",
           "calls",
           "check_gradients", "check_meaning", "check_op", "check_shape_rule", "check_vjp", "differentiable",
           "gradcheck", "gradient_test", "selfcheck", "terms", "tolerance"]
