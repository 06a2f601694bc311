"""Expected values and their spread over seeds, for the page book/reference_numbers.md.

Trains each setting from five seeds (about five minutes on two cores) and prints a table; `--write`
puts it into the page.
"""

import argparse
import statistics
from pathlib import Path

from vae_lib import evaluate, load_mnist, train

PAGE = Path(__file__).parent.parent / "book" / "reference_numbers.md"
MARKS = ("<!-- spread: begin -->", "<!-- spread: end -->")
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

    table = ["| setting | test negative ELBO | reconstruction | KL |", "|---|---|---|---|"]
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
        table.append(f"| {name} | {' | '.join(cells)} |")
    text = "\n".join(table)
    print(text)
    if options.write:
        before, rest = PAGE.read_text().split(MARKS[0])
        after = rest.split(MARKS[1])[1]
        PAGE.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}")


if __name__ == "__main__":
    main()
