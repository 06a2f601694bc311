"""The reference weights: what the book's recipe arrives at, ready to load."""

import hashlib
import json
import os
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save

from vae_lib.checks import check_path, fail
from vae_lib.models import VAE, check_vae
from vae_lib.runtime import check_device

REFERENCE_WEIGHTS = Path(__file__).parent / "weights" / "reference.safetensors"


def trained_vae(
    device: torch.device | str | None = None, weights: str | os.PathLike | None = None
) -> VAE:
    """A trained VAE, ready to use: the one with the book's reference weights.

    The reference weights ship with the library; they are what `train(load_mnist().train.images)`
    gives. Give `weights`, a file written by `save_vae`, to go through a chapter with a model of
    your own. `device` is where it is put; without it, the CPU. The reference weights come in
    torch's default precision, those of a file in the file's. Chapter 4 arrives at them.

    Raises `ValueError` when the file is missing, damaged or not written by `save_vae`, and for a
    device that this machine does not have.
    """
    device = check_device("device", "cpu" if device is None else device)
    if weights is not None:
        return _load(check_path("weights", weights)).to(device)
    try:
        expected = REFERENCE_WEIGHTS.with_suffix(".sha256").read_text()[:64]
        found = hashlib.sha256(REFERENCE_WEIGHTS.read_bytes()).hexdigest()
    except OSError as error:
        fail("reference weights", "the files that ship with vae_lib", error)
    if found != expected:
        fail(f"reference weights {REFERENCE_WEIGHTS}", f"SHA-256 {expected}", f"SHA-256 {found}")
    return _load(REFERENCE_WEIGHTS).to(device, torch.get_default_dtype())


def save_vae(vae: VAE, path: str | os.PathLike) -> None:
    """Write the weights of `vae` and the sizes of its network to a safetensors file.

    The file appears in one step: whatever happens, no half-written file is left at `path`.
    `trained_vae(weights=path)` reads it: after chapter 4, to go through chapters 5 and 6 with a
    model of your own. Raises `ValueError` for a `vae` that is none, and for a `path` that is a
    folder or lies in one that does not exist; what the system says of a full disk or a forbidden
    folder is an `OSError`.
    """
    check_vae(vae)
    path = check_path("path", path)
    if not path.parent.is_dir():
        fail("path", "a file in a folder that exists", path)
    if path.is_dir():
        fail("path", "a file", f"{path}, which is a folder")
    # One JSON string: safetensors does not keep several metadata entries in a fixed order, and
    # the same weights are to give the same bytes.
    sizes = {
        "latent_dim": vae.latent_dim, "hidden_dim": vae.hidden_dim, "activation": vae.activation,
    }  # fmt: skip
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        tensors = {name: tensor.cpu().contiguous() for name, tensor in vae.state_dict().items()}
        partial.write_bytes(save(tensors, metadata={"vae_lib": json.dumps(sizes)}))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _load(path: Path) -> VAE:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            vae = VAE(**json.loads(file.metadata()["vae_lib"]), generator=torch.Generator())
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        vae.to(next(iter(tensors.values())).dtype).load_state_dict(tensors)
    except FileNotFoundError:
        fail("weights", "a file written by save_vae", f"{path}, which does not exist")
    except Exception as error:  # safetensors and torch each raise their own kinds
        reason = " ".join(str(error).split())[:200]
        fail("weights", "a file written by save_vae", f"{path} ({type(error).__name__}: {reason})")
    return vae
