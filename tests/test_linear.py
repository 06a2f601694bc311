"""Fast products are those of `nn.Linear`, and are used where the library trains or evaluates."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from vae_lib import VAE, evaluate, exact_log_evidence, fit, iwae_bound, linear, stream
from vae_lib.linear import Linear, fast_products

# The operation itself needs no AVX-512: there it is only fast.
pytestmark = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="a PyTorch without oneDNN"
)


@pytest.fixture(autouse=True)
def available(monkeypatch):
    monkeypatch.setattr(linear, "AVAILABLE", True)


@pytest.fixture
def products(monkeypatch):
    """The shapes of all fast products."""
    shapes, times_transposed = [], linear.times_transposed

    def watched(a, b, bias=None):
        shapes.append((*a.shape, len(b)))
        return times_transposed(a, b, bias)

    monkeypatch.setattr(linear, "times_transposed", watched)
    return shapes


def layer_and_twin(num_in, num_out, dtype=torch.float32):
    layer = Linear(num_in, num_out, dtype=dtype)
    twin = nn.Linear(num_in, num_out, dtype=dtype)
    twin.load_state_dict(layer.state_dict())
    return layer, twin


def images(n):
    return torch.rand(n, 784, generator=stream("images"))


class TestProducts:
    # Small whole numbers are multiplied and added without rounding, in any order.
    sizes = st.integers(64, 90)

    @given(st.integers(1, 40), sizes, sizes, st.integers(0, 2**31), st.booleans(), st.booleans())
    def test_the_result_and_the_three_derivatives_are_those_of_pytorch(
        self, batch, num_in, num_out, seed, transposed, same_gradient
    ):
        whole = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randint(-8, 9, shape, generator=whole).float()

        layer, twin = layer_and_twin(num_in, num_out)
        with torch.no_grad():
            for parameters in zip(layer.parameters(), twin.parameters()):
                values = draw(*parameters[0].shape)
                for parameter in parameters:
                    parameter.copy_(values)
        x = draw(num_in, batch).T if transposed else draw(batch, num_in)
        grad = draw(1, num_out).expand(batch, -1) if same_gradient else draw(batch, num_out)
        x, y = x.clone().requires_grad_(), x.clone().requires_grad_()
        with fast_products():
            fast = layer(x)
        slow = twin(y)
        fast.backward(grad)
        slow.backward(grad)
        assert torch.equal(fast, slow) and torch.equal(x.grad, y.grad)
        assert torch.equal(layer.weight.grad, twin.weight.grad)
        assert torch.equal(layer.bias.grad, twin.bias.grad)

    def test_only_what_needs_a_gradient_gets_one(self, products):
        layer, x = Linear(70, 80), torch.rand(3, 70)
        layer.weight.requires_grad_(False)
        with fast_products():
            layer(x).sum().backward()
        assert products == [(3, 70, 80)]
        assert layer.weight.grad is None and layer.bias.grad.tolist() == [3.0] * 80

    def test_a_second_derivative_is_refused(self):
        layer, x = Linear(70, 80), torch.rand(3, 70, requires_grad=True)
        with fast_products():
            (of_x,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            of_x.sum().backward()


class TestWhere:
    def test_inside_the_block_and_nowhere_else(self, products):
        layer, twin = layer_and_twin(64, 64)
        x = torch.rand(5, 64)
        assert torch.equal(layer(x), twin(x)) and not products
        with fast_products():
            layer(x)
            with fast_products():
                layer(x)
            layer(x)
        with pytest.raises(KeyboardInterrupt), fast_products():
            raise KeyboardInterrupt
        assert torch.equal(layer(x), twin(x)) and len(products) == 3

    @pytest.mark.parametrize(
        ("num_in", "num_out", "dtype"),
        [(63, 400, torch.float32), (400, 63, torch.float32), (70, 80, torch.float64)],
    )
    def test_small_layers_and_other_precisions_are_left_to_pytorch(
        self, products, num_in, num_out, dtype
    ):
        layer, twin = layer_and_twin(num_in, num_out, dtype)
        x = torch.rand(5, num_in, dtype=dtype)
        with fast_products():
            assert torch.equal(layer(x), twin(x)) and not products

    def test_nowhere_where_it_is_not_available(self, products, monkeypatch):
        monkeypatch.setattr(linear, "AVAILABLE", False)
        with fast_products():
            Linear(70, 80)(torch.rand(3, 70))
        assert not products

    def test_where_the_library_computes_at_length(self, products):
        vae, x = VAE(generator=stream("model")), images(4)
        forward = [(4, 784, 400), (4, 400, 400), (4, 400, 400), (4, 400, 784)]
        evaluate(vae, x)
        assert products == forward
        products.clear()
        iwae_bound(vae, x, 1, stream("iwae"))
        assert products == forward
        products.clear()
        exact_log_evidence(vae, x)
        assert {shape[1:] for shape in products} == {(400, 400), (400, 784)}
        products.clear()
        fit(vae, x, epochs=1, progress=False)
        hidden = [(4, 400, 400), (400, 4, 400)]
        backward = [(4, 784, 400), (784, 4, 400), *hidden, *hidden]
        backward.append((400, 4, 784))  # of the first layer's weight; none for the images
        assert products == forward + backward
        products.clear()
        vae(x)
        vae.sample(1)
        assert not products

    def test_training_ends_at_the_same_weights(self, monkeypatch):
        def trained(available):
            monkeypatch.setattr(linear, "AVAILABLE", available)
            vae = VAE(generator=stream("model"))
            fit(vae, images(100), epochs=2, batch_size=25, progress=False)
            return nn.utils.parameters_to_vector(vae.parameters())

        # In eight steps rounding errors have no time to grow.
        assert_close(trained(True), trained(False), rtol=0, atol=1e-5)

    @pytest.mark.parametrize("kernels", [None, "avx2", "default"])
    def test_it_is_available_with_avx512_and_not_with_other_kernels(self, kernels):
        code = (
            "import torch; from vae_lib import linear; "
            "print(torch.backends.cpu.get_cpu_capability(), linear.AVAILABLE, sep='/')"
        )
        environment = dict(os.environ)
        environment.pop("ATEN_CPU_CAPABILITY", None)
        if kernels is not None:
            environment["ATEN_CPU_CAPABILITY"] = kernels
        run = [sys.executable, "-c", code]
        result = subprocess.run(run, env=environment, capture_output=True, text=True, check=True)
        capability, available = result.stdout.strip().split("/")
        assert available == str(capability == "AVX512")
        assert kernels is None or capability != "AVX512"
