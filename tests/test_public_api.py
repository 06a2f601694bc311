"""What the library offers: all of it documented, quick to import, and strict about its input."""

import inspect
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import vae_lib
from vae_lib import plotting

NAN, INF = math.nan, math.inf
GENERATOR = torch.Generator()
VAE_2 = vae_lib.VAE(hidden_dim=4, generator=vae_lib.stream("small"))
X = torch.rand(3, 784, generator=vae_lib.stream("pixels"))
IMAGES = (255 * X).to(torch.uint8).view(3, 28, 28)
LABELS = torch.tensor([3, 1, 4])
SPLIT = vae_lib.Split(IMAGES, LABELS)
LOGITS = 3 * (X - 0.5)
MU, LOG_VAR = torch.zeros(3, 2), torch.zeros(3, 2)


def with_entry(tensor, value):
    """A copy of which one entry is `value`, and not the first."""
    copy = tensor.clone()
    copy.view(-1)[-1] = value
    return copy


def odd_kinds(tensor):
    """The same shape, but of kinds that torch's operations do not take, or only some of them."""
    return [tensor.to_sparse(), tensor.to("meta"), tensor.to(torch.float8_e5m2)]


# What is wrong, whatever the shape: not a tensor, not floating point.
NOT_TENSORS = [None, 1.0, "x", [[0.0] * 784], X.numpy(), X.to(torch.int64), X > 0.5]
NOT_FINITE = [NAN, INF, -INF]
BAD_X = [
    *NOT_TENSORS, X[0], X[None], X[:, :783], X[:0], X.view(3, 28, 28), X.to(torch.complex64),
    *odd_kinds(X),
    *(with_entry(X, bad) for bad in (NAN, INF, -INF, 1.01, -0.01, 255.0)),
]  # fmt: skip
BAD_MODEL_X = [*BAD_X, X.double()]
BAD_LATENT = [
    *NOT_TENSORS, MU[0], MU[None], MU[:0], MU[:, :0], MU.to(torch.int64), *odd_kinds(MU),
    *(with_entry(MU, bad) for bad in NOT_FINITE),
]  # fmt: skip
BAD_LOGITS = [*NOT_TENSORS, LOGITS[0], LOGITS[:2], LOGITS[:, :783], LOGITS[:0], *odd_kinds(LOGITS),
              *(with_entry(LOGITS, bad) for bad in NOT_FINITE)]  # fmt: skip
BAD_IMAGES = [
    None, 1, "images", IMAGES.numpy(), IMAGES[0], IMAGES[:0], IMAGES[:, None], IMAGES[:, :27],
    IMAGES.to(torch.int64), X[0], X[:0], X[:, :783], SPLIT, *odd_kinds(X), IMAGES.to("meta"),
    *(with_entry(X, bad) for bad in (NAN, INF, 1.01, -0.01)),
]  # fmt: skip
BAD_COUNT = [0, -1, 1.0, 1.5, NAN, "1", None, True, [1], torch.tensor(1)]  # must be ≥ 1
BAD_SIZE = [-1, 1.0, NAN, "1", True, [1]]  # must be ≥ 0
BAD_SEED = [*BAD_SIZE, None]
BAD_NUMBER = [-0.1, NAN, INF, -INF, "1", None, True, 1j, [1.0], torch.tensor(1.0), 10**400]
BAD_POSITIVE = [0, 0.0, *BAD_NUMBER]
NOT_NUMBERS = ["1", None, True, 1j, [1.0], np.True_, X, torch.ones(1), torch.tensor(True),
               torch.tensor(1j)]  # fmt: skip
BAD_LINE = ["", " ", "two\nlines", "a line\n", None, 0, b"ELBO", ["ELBO"]]
BAD_PAIR = [None, 0.9, (0.9,), (0.9, 0.99, 0.999), (-0.1, 0.9), (0.9, NAN), (0.9, INF),
            ("0.9", 0.99), "ab", (True, False), torch.tensor([0.9, 0.99])]  # fmt: skip
BAD_FLAG = [0, 1, "yes", None, NAN]
BAD_GENERATOR = [0, "noise", np.random.default_rng(0), torch]
BAD_NAME = ["", "gelatine", None, 0, ["gelu"]]
# torch keeps the lowest eight bits of a device's number.
BAD_DEVICE = ["gpu", "", "cuda:99", "cpu:7", "cpu:x", 0, torch.device("meta"),
              "cpu:128", "cpu:255", "cpu:256", "cuda:128", "mps:200"]  # fmt: skip
BAD_PATH = ["", 0, b"bytes", ["a"], "a\0b"]
BAD_VAE = [None, "vae", X, VAE_2.encoder, torch.nn.Linear(784, 2)]
BAD_LABELS = [None, [3, 1, 4], LABELS.numpy(), LABELS[:2], LABELS.int(), LABELS.double(),
              LABELS[None]]  # fmt: skip

NETWORK = {
    "latent_dim": BAD_COUNT, "hidden_dim": BAD_COUNT, "activation": BAD_NAME,
    "generator": BAD_GENERATOR,
}  # fmt: skip

# For every public function and method: arguments that are right, and for each argument values
# that are wrong. `test_the_table_is_complete` sees to it that no argument is forgotten.
TABLE = {
    vae_lib.Encoder: ({}, NETWORK),
    vae_lib.Encoder.forward: ({"self": VAE_2.encoder, "x": X}, {"x": BAD_MODEL_X}),
    vae_lib.Decoder: ({}, NETWORK),
    vae_lib.Decoder.forward: (
        {"self": VAE_2.decoder, "z": MU},
        {"z": [*BAD_LATENT, torch.zeros(3, 3), MU.double()]},
    ),
    vae_lib.VAE: ({}, NETWORK),
    vae_lib.VAE.encode: ({"self": VAE_2, "x": X}, {"x": BAD_MODEL_X}),
    vae_lib.VAE.reparameterize: (
        {"self": VAE_2, "mu": MU, "log_var": LOG_VAR},
        {
            "mu": [*BAD_LATENT, torch.zeros(3, 5)],
            "log_var": [*BAD_LATENT, LOG_VAR[:2], LOG_VAR[:, :1]],
            "generator": BAD_GENERATOR,
            "noise": [b for b in [*BAD_LATENT, MU[:2], MU[:, :1]] if b is not None],
        },
    ),
    vae_lib.VAE.decode: (
        {"self": VAE_2, "z": MU}, {"z": [*BAD_LATENT, torch.zeros(3, 3), MU.double()]},
    ),
    vae_lib.VAE.forward: (
        {"self": VAE_2, "x": X},
        {
            "x": BAD_MODEL_X, "generator": BAD_GENERATOR,
            "noise": [b for b in [*BAD_LATENT, MU[:2], MU[:, :1]] if b is not None],
        },
    ),
    vae_lib.VAE.sample: (
        {"self": VAE_2, "n": 2},
        {"n": BAD_COUNT, "generator": BAD_GENERATOR, "binarize": BAD_FLAG},
    ),
    vae_lib.bernoulli_log_likelihood: (
        {"x": X, "logits": LOGITS},
        {"x": BAD_X, "logits": BAD_LOGITS},
    ),
    vae_lib.kl_to_standard_normal: (
        {"mu": MU, "log_var": LOG_VAR},
        {"mu": BAD_LATENT, "log_var": [*BAD_LATENT, LOG_VAR[:2], LOG_VAR[:, :1]]},
    ),
    vae_lib.elbo: (
        {"x": X, "logits": LOGITS, "mu": MU, "log_var": LOG_VAR},
        {
            "x": BAD_X, "logits": BAD_LOGITS, "mu": BAD_LATENT,
            "log_var": [*BAD_LATENT, LOG_VAR[:2], LOG_VAR[:, :1]], "beta": BAD_NUMBER,
        },
    ),
    vae_lib.iwae_bound: (
        {"vae": VAE_2, "x": X, "num_samples": 2},
        {
            "vae": BAD_VAE, "x": BAD_MODEL_X, "num_samples": BAD_COUNT,
            "generator": BAD_GENERATOR, "chunk_size": BAD_COUNT,
        },
    ),
    vae_lib.exact_log_evidence: (
        {"vae": vae_lib.VAE(1, 4, generator=vae_lib.stream("small")), "x": X},
        {
            "vae": [*BAD_VAE, vae_lib.VAE(3, 4)], "x": BAD_MODEL_X, "tolerance": BAD_POSITIVE,
            "half_width": BAD_POSITIVE,
        },
    ),
    vae_lib.evaluate: (
        {"vae": VAE_2, "images": IMAGES},
        {
            "vae": BAD_VAE, "images": [*BAD_IMAGES, IMAGES[:1]], "num_samples": BAD_COUNT,
            "seed": BAD_SEED, "batch_size": BAD_COUNT,
        },
    ),
    vae_lib.learning_rate_at: (
        {"step": 0, "num_steps": 10, "peak": 1.0, "warmup_steps": 2, "schedule": "linear"},
        {
            "step": [*BAD_SEED, 10, 11], "num_steps": BAD_COUNT, "peak": BAD_POSITIVE,
            "warmup_steps": BAD_SEED, "schedule": BAD_NAME,
        },
    ),
    vae_lib.fit: (
        {"vae": VAE_2, "images": IMAGES, "epochs": 1, "progress": False},
        {
            "vae": BAD_VAE, "images": BAD_IMAGES, "epochs": BAD_COUNT, "batch_size": BAD_COUNT,
            "learning_rate": BAD_POSITIVE,
            "betas": [*BAD_PAIR, (0.9, 1.0), (1.5, 0.9)], "epsilon": BAD_POSITIVE,
            "encoder_rates": BAD_PAIR,
            "schedule": BAD_NAME, "warmup_steps": BAD_SIZE, "shuffle": BAD_FLAG,
            "reduction": [*BAD_NAME, "none"], "beta": BAD_NUMBER, "seed": BAD_SEED,
            "validation_images": [b for b in [*BAD_IMAGES, IMAGES[:1]] if b is not None],
            "checkpoint": [*BAD_PATH, "no/such/folder/run.pt", "."], "resume": BAD_FLAG,
            "progress": BAD_FLAG,
        },
    ),
    vae_lib.train: (
        {"images": IMAGES, "epochs": 1, "progress": False},
        {
            "images": BAD_IMAGES, "setting": BAD_NAME, "seed": BAD_SEED, "device": BAD_DEVICE,
            # Passed on: a sample of each kind.
            "activation": BAD_NAME, "mean_start": BAD_FLAG, "epochs": BAD_COUNT,
            "shuffle": BAD_FLAG,
        },
    ),
    vae_lib.start_at_mean_image: (
        {"vae": vae_lib.VAE(hidden_dim=2), "images": IMAGES}, {"vae": BAD_VAE, "images": BAD_IMAGES}
    ),
    vae_lib.trained_vae: (
        {}, {"device": BAD_DEVICE, "weights": [*BAD_PATH, "no/such/file", ".", __file__]},
    ),
    vae_lib.save_vae: (
        None,  # writes: see test_trained.py
        {"vae": BAD_VAE, "path": [*BAD_PATH, None, "no/such/folder/file", ".", ".."]},
    ),
    vae_lib.pick_device: ({"name": "cpu"}, {"name": BAD_DEVICE}),
    vae_lib.stream: ({"name": "noise"}, {"name": ["", None, 0, b"noise"], "seed": BAD_SEED}),
    vae_lib.compare_result: (
        {"name": "negative ELBO", "value": 143.3, "expected": 143.28, "tolerance": 0.01},
        {
            "name": BAD_LINE, "unit": [text for text in BAD_LINE if text != ""],
            "value": NOT_NUMBERS, "expected": [*NOT_NUMBERS, NAN, INF, -INF, 10**400],
            "tolerance": [*NOT_NUMBERS, NAN, INF, 10**400, 0, 0.0, -0.1, torch.tensor(0.0)],
        },
    ),
    vae_lib.load_mnist: (None, {"root": BAD_PATH}),  # reads 55 MB: see test_data.py
    vae_lib.hold_out: (
        {"split": SPLIT, "num_held_out": 1},
        {"split": [None, IMAGES, "train"], "num_held_out": [*BAD_COUNT, 3, 4], "seed": BAD_SEED},
    ),
    vae_lib.binarize: (
        {"x": X, "method": "dynamic"},
        {
            "x": [*NOT_TENSORS, X[:0], *odd_kinds(X),
                  *(with_entry(X, bad) for bad in (NAN, 1.01, -0.01))],
            "method": BAD_NAME, "generator": BAD_GENERATOR,
        },
    ),
    vae_lib.Split: (
        {"images": IMAGES, "labels": LABELS},
        {
            "images": [None, IMAGES.numpy(), IMAGES[0], IMAGES[:0], X, IMAGES.view(3, 784),
                       IMAGES.to("meta")],
            "labels": [*BAD_LABELS, LABELS - 2, LABELS + 6, LABELS.to("meta")],
        },
    ),
    vae_lib.MNIST: (
        {"train": SPLIT, "test": SPLIT},
        {"train": [None, 1, IMAGES, (IMAGES, LABELS)], "test": [None, 2, IMAGES]},
    ),
    vae_lib.MNIST.split: (
        {"self": vae_lib.MNIST(SPLIT, SPLIT), "name": "train"},
        {"name": ["", "valid", "Train", None, 0, "split"]},
    ),
    plotting.show_images: (
        {"images": IMAGES},
        {
            "images": BAD_IMAGES, "titles": [5, "abc", ["a"], [1, 2, 3]], "columns": BAD_COUNT,
            "size": BAD_POSITIVE,
        },
    ),
    plotting.plot_history: (None, {"history": [None, [1.0], IMAGES]}),  # see test_plotting.py
    plotting.latent_scatter: (
        {"mu": MU, "labels": LABELS},
        {
            "mu": [*BAD_LATENT, torch.zeros(3, 3)],
            "labels": [*BAD_LABELS, LABELS + 6, LABELS - 2], "ax": [0, "ax", plotting.plt],
            "title": [0, ["title"]],
        },
    ),
    plotting.latent_grid: (
        {"vae": VAE_2, "steps": 2},
        {
            "vae": [*BAD_VAE, vae_lib.VAE(3, 4), vae_lib.VAE(1, 4)], "steps": [*BAD_COUNT, 1],
            "spacing": BAD_NAME, "half_width": BAD_POSITIVE,
        },
    ),
    plotting.latent_axis: (
        {"steps": 2, "spacing": "linear"},
        {"steps": [*BAD_COUNT, 1], "spacing": BAD_NAME, "half_width": BAD_POSITIVE},
    ),
}  # fmt: skip

# Not called with arguments of a user's: what functions return, tables and exceptions.
RESULTS = {"Curves", "Evaluation", "History", "MNIST", "MNISTUnavailableError", "SETTINGS"}


def public(module):
    """The functions and classes that a module with no `__all__` calls its own."""
    return [
        value for name, value in vars(module).items()
        if callable(value) and value.__module__ == module.__name__ and not name.startswith("_")
    ]  # fmt: skip


def parameters(function):
    return [name for name, parameter in inspect.signature(function).parameters.items()
            if parameter.kind is not parameter.VAR_KEYWORD]  # fmt: skip


def name_of(function):
    return function.__qualname__ if inspect.isfunction(function) else function.__name__


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Wrong paths are relative to an empty folder; figures are not shown and are closed."""
    monkeypatch.chdir(tmp_path)
    backend = plotting.plt.get_backend()
    plotting.plt.switch_backend("Agg")
    yield
    plotting.plt.close("all")
    plotting.plt.switch_backend(backend)


class TestTheTable:
    def test_every_public_name_is_in_it(self):
        for name in set(vae_lib.__all__) - RESULTS:
            assert getattr(vae_lib, name) in TABLE, f"{name} has no row"
        for function in public(plotting):
            if parameters(function):
                assert function in TABLE, f"plotting.{function.__name__} has no row"
        for network in (vae_lib.Encoder, vae_lib.Decoder, vae_lib.VAE):
            for name, method in vars(network).items():
                if inspect.isfunction(method) and not name.startswith("_"):
                    assert method in TABLE, f"{network.__name__}.{name} has no row"

    @pytest.mark.parametrize("function", TABLE, ids=name_of)
    def test_every_argument_is_in_it(self, function):
        missing = set(parameters(function)) - {"self"} - set(TABLE[function][1])
        assert not missing

    @pytest.mark.parametrize(
        "function", [f for f, (good, _) in TABLE.items() if good is not None], ids=name_of
    )
    def test_the_right_arguments_are_right(self, function):
        function(**TABLE[function][0])
        VAE_2.zero_grad()


@pytest.mark.parametrize(
    ("function", "argument"),
    [
        pytest.param(function, argument, id=f"{name_of(function)}-{argument}")
        for function, (_, wrong) in TABLE.items()
        for argument in wrong
    ],
)
def test_a_wrong_argument_is_named(function, argument, tmp_path):
    good, wrong = TABLE[function]
    good = {"vae": VAE_2, "path": "file"} if function is vae_lib.save_vae else good or {}
    assert wrong[argument]
    weights = {name: value.clone() for name, value in VAE_2.state_dict().items()}
    random_state = torch.get_rng_state()
    for value in wrong[argument]:
        with pytest.raises(ValueError) as caught:
            function(**good | {argument: value})
            pytest.fail(f"{argument} = {vae_lib.checks.describe(value)} was accepted")
        message = str(caught.value)
        # Of two tensors that do not fit each other either may be named.
        others = {"x": "logits", "mu": "log_var|noise", "images": "labels"}
        names = f"{argument}|{others[argument]}" if argument in others else argument
        assert re.match(rf"({names}): expected .+, got .+", message), message
        assert len(message) < 600
    # And nothing has happened.
    assert all(torch.equal(weights[name], value) for name, value in VAE_2.state_dict().items())
    assert all(parameter.grad is None for parameter in VAE_2.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert list(tmp_path.iterdir()) == []
    assert plotting.plt.get_fignums() == []


class TestDocstrings:
    @pytest.mark.parametrize("name", vae_lib.__all__)
    def test_every_public_name_has_one(self, name):
        value = getattr(vae_lib, name)
        if callable(value):
            assert value.__doc__ and len(value.__doc__.split()) >= 5
            # The one that a dataclass makes for itself says nothing.
            assert not value.__doc__.startswith(f"{name}(")

    @pytest.mark.parametrize("function", TABLE, ids=name_of)
    def test_every_function_has_one(self, function):
        # nn.Module documents `forward` for all; ours are documented with their class.
        if function.__name__ != "forward":
            assert inspect.getdoc(function) and len(inspect.getdoc(function).split()) >= 5

    @pytest.mark.parametrize(
        "function",
        [f for f in TABLE if "Tensor" in str(inspect.signature(f).return_annotation)],
        ids=name_of,
    )
    def test_what_returns_tensors_says_their_shape_and_unit(self, function):
        owner = function
        if function.__name__ == "forward":
            owner = getattr(vae_lib, function.__qualname__.split(".")[0])
        text = inspect.getdoc(owner)
        assert re.search(r"`?\((batch|n|steps)[^)]*\)`?|shape", text), "no shape"
        unit = r"nats|\[0, 1\]|[Ll]ogits|zeros and ones|latent|log variance|coordinates"
        assert re.search(unit, text), "no unit or range"

    @pytest.mark.parametrize(
        "function", [f for f in TABLE if f.__name__ != "forward"], ids=name_of
    )
    def test_errors_and_the_chapter_are_named(self, function):
        text = inspect.getdoc(function)
        owner = getattr(vae_lib, function.__qualname__.split(".")[0], function)
        assert "ValueError" in text or "Raises what" in text
        assert re.search(r"[Cc]hapters? [1-6]", text + inspect.getdoc(owner))

    @pytest.mark.parametrize(
        "name",
        ["bernoulli_log_likelihood", "kl_to_standard_normal", "elbo", "iwae_bound",
         "exact_log_evidence", "evaluate"],
    )  # fmt: skip
    def test_objectives_are_in_nats_per_image_and_say_where_they_are_derived(self, name):
        text = inspect.getdoc(getattr(vae_lib, name))
        assert "nats per image" in text and re.search(r"[Dd]erived in chapter \d|chapter \d", text)


class TestImport:
    def test_the_public_names_are_there_once_and_in_order(self):
        assert all(hasattr(vae_lib, name) for name in vae_lib.__all__)
        assert len(set(vae_lib.__all__)) == len(vae_lib.__all__)
        contract = """load_mnist Encoder Decoder VAE bernoulli_log_likelihood kl_to_standard_normal
            elbo iwae_bound exact_log_evidence fit evaluate trained_vae pick_device"""
        assert set(contract.split()) <= set(vae_lib.__all__)

    def test_it_brings_in_nothing_slow(self):
        script = """
import sys
import vae_lib
slow = ("torchvision", "pip", "IPython", "ipykernel", "ipywidgets", "matplotlib", "pandas")
print([name for name in slow if name in sys.modules])
"""
        result = subprocess.run(
            [sys.executable, "-W", "error", "-c", script],
            cwd=Path(vae_lib.__file__).parents[1], capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr

    def test_the_version_is_that_of_the_package(self):
        assert re.fullmatch(r"\d+\.\d+\.\d+", vae_lib.__version__)
