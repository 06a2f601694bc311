"""Train the reference weights again and write them into the library (`make weights`).

Prints how far the new weights lie from the old ones, and leaves the old file alone if they agree
to the last bit.
"""

import hashlib

import torch

from vae_lib import evaluate, load_mnist, save_vae, train, trained_vae
from vae_lib.trained import REFERENCE_WEIGHTS


def main() -> None:
    mnist = load_mnist()
    vae, history = train(mnist.train.images)
    print(history)
    print("test:", evaluate(vae, mnist.test.images))
    if REFERENCE_WEIGHTS.exists():
        print(f"relative difference from the old weights: {relative_difference(vae):.1e}")
    REFERENCE_WEIGHTS.parent.mkdir(exist_ok=True)
    save_vae(vae, REFERENCE_WEIGHTS)
    digest = hashlib.sha256(REFERENCE_WEIGHTS.read_bytes()).hexdigest()
    REFERENCE_WEIGHTS.with_suffix(".sha256").write_text(f"{digest}  {REFERENCE_WEIGHTS.name}\n")
    print(f"written: {REFERENCE_WEIGHTS} ({REFERENCE_WEIGHTS.stat().st_size:,} bytes)")


def relative_difference(vae: torch.nn.Module) -> float:
    """‖new − reference‖ / ‖reference‖ over all weights together."""
    new, old = (
        torch.nn.utils.parameters_to_vector(model.parameters()) for model in (vae, trained_vae())
    )
    return ((new - old).norm() / old.norm()).item()


if __name__ == "__main__":
    main()
