"""What tools/matrix.py lets each kernel run before a chapter's first cell.

It gives the kernel the precision and the settings of the row, and writes down what the kernel
then is: a row is judged by that, not by the variables it was started with.
"""


def _prepare():
    import functools
    import hashlib
    import json
    import os
    import platform

    import matplotlib
    import numpy
    import torch

    from vae_lib.linear import Linear, fast_products

    row = json.loads(os.environ["VAE_BOOK_ROW"])

    def in_float32(draw):
        """The same numbers as in float32, and then in the default precision."""

        @functools.wraps(draw)
        def drawn(*args, **kwargs):
            if kwargs.get("dtype") is not None:
                return draw(*args, **kwargs)
            return draw(*args, **kwargs, dtype=torch.float32).to(torch.get_default_dtype())

        return drawn

    if row["dtype"] == "float64":
        # Without a dtype, torch would draw float64, and then draws other numbers.
        torch.rand, torch.randn = in_float32(torch.rand), in_float32(torch.randn)
        torch.set_default_dtype(torch.float64)
    device = torch.device(row["device"])
    if device.type == "cuda":
        # For what a chapter computes outside vae_lib, which takes care of itself. An operation
        # that has no deterministic kernel raises an error.
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        torch.use_deterministic_algorithms(True)

    def digest(tensor):
        return hashlib.sha256(tensor.cpu().numpy().tobytes()).hexdigest()[:12]

    # The sizes of the book's first layer: do kernels and threads make any difference at all?
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(250, 784, generator=generator).to(device)
    layer = torch.nn.utils.skip_init(Linear, 784, 400, bias=False, device=device)
    with torch.no_grad(), fast_products():  # as the library trains and evaluates
        layer.weight.copy_(torch.rand(400, 784, generator=generator) - 0.5)
        product = layer(x - 0.5)
    facts = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "matplotlib": matplotlib.__version__,
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "device": device.type,
        "device name": torch.cuda.get_device_name(device) if device.type == "cuda" else "",
        "bits of a product": digest(product),
        "bits of an activation": digest(torch.nn.functional.gelu(x)),
    }
    with open(row["facts"], "a", encoding="utf-8") as file:
        file.write(json.dumps(facts) + "\n")


_prepare()
# These lines run in the chapter's own namespace, which is to be empty.
del _prepare
