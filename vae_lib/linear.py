"""`nn.Linear`, computed faster while the library trains or evaluates on a CPU with AVX-512.

PyTorch gives the float32 products of `nn.Linear` to MKL, which on other processors than Intel's
leaves half of a vector register unused. oneDNN, which PyTorch brings as well, uses all of it. It
sums in another order, so that results differ in their last bits, as they do between any two
processors (chapter 4). All that this module changes is time: without it, training takes a third
longer on such a processor. Measured on the page "How fast is it?".
"""

import contextlib
import contextvars
from collections.abc import Iterator

import torch
from torch import Tensor, nn

# The operation behind PyTorch's own compiler. Its name is not public and may go one day.
AVAILABLE = (
    torch.backends.cpu.get_cpu_capability() == "AVX512"
    and torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)
# From this size on, the time that it saves exceeds that of calling it.
MIN_SIZE = 64

_products_are_fast = contextvars.ContextVar("products_are_fast", default=False)


@contextlib.contextmanager
def fast_products() -> Iterator[None]:
    """Inside this block `Linear` uses oneDNN where it can.

    Only first derivatives can be taken of what it computes there, and none by `torch.func`. So it
    is for a loop whose every step is known, such as `fit`, and off everywhere else.
    """
    token = _products_are_fast.set(AVAILABLE)
    try:
        yield
    finally:
        _products_are_fast.reset(token)


class Linear(nn.Linear):
    """PyTorch's linear layer, y = x Wᵀ + b, whose large products `fast_products` speeds up.

    Call: `x` of shape `(batch, in_features)` → `(batch, out_features)`.
    """

    def forward(self, x: Tensor) -> Tensor:
        large = min(self.in_features, self.out_features) >= MIN_SIZE
        on_cpu = x.device.type == "cpu" and x.dtype == torch.float32
        if _products_are_fast.get() and large and on_cpu:
            return _OneDNN.apply(x, self.weight, self.bias)
        return super().forward(x)


class _OneDNN(torch.autograd.Function):
    """y = x Wᵀ + b and its derivatives, each of the three products by oneDNN."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return times_transposed(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            times_transposed(grad, weight.T) if of_x else None,
            times_transposed(grad.T, x.T) if of_weight else None,
            grad.sum(dim=0) if of_bias else None,
        )


def times_transposed(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a bᵀ + bias by oneDNN, for float32 matrices on a CPU; only where `AVAILABLE`."""
    return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
