"""Expected values and their spread over seeds, for the page book/reference_numbers.md.

Trains each setting from five seeds (about five minutes on two cores) and prints a table; `--write`
puts it into the page.
"""

import argparse
import statistics

from pages import BOOK, put_between_marks, table

from vae_lib import evaluate, load_mnist, train

PAGE = BOOK / "reference_numbers.md"
SEEDS = range(5)
RUNS = {
    "default, 10 epochs": ("default", {}),
    "default, 3 epochs": ("default", {"epochs": 3}),
    "original, 10 epochs": ("original", {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    options = parser.parse_args()
    mnist = load_mnist()

    rows = []
    for name, (setting, changes) in RUNS.items():
        results = []
        for seed in SEEDS:
            vae, _ = train(mnist.train.images, setting, seed=seed, progress=False, **changes)
            results.append(evaluate(vae, mnist.test.images))
            print(name, "seed", seed, results[-1], flush=True)
        cells = []
        for term in ("negative_elbo", "reconstruction", "kl"):
            values = [getattr(result, term) for result in results]
            cells.append(
                f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"
            )
        rows.append([name, *cells])
    text = table(["setting", "test negative ELBO", "reconstruction", "KL"], rows)
    print(text)
    if options.write:
        put_between_marks(PAGE, "spread", text)


if __name__ == "__main__":
    main()
