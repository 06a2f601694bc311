"""Shared by the unit tests. The comparison of notebooks is switched on in ../conftest.py."""

import os

import pytest
from hypothesis import settings

# The first example of a test may wait for an import or for a busy machine; that is no failure.
settings.register_profile("vae_book", deadline=None)
settings.load_profile("vae_book")


@pytest.fixture(scope="session")
def mnist():
    """The whole of MNIST. Without it the test is skipped, but under CI it fails."""
    return load_or_skip()


def load_or_skip():
    from vae_lib import MNISTUnavailableError, load_mnist

    try:
        return load_mnist()
    except MNISTUnavailableError as error:
        if os.environ.get("CI"):
            raise
        reason = str(error).splitlines()[0]
        pytest.skip(f"no MNIST here ({reason}); `python -m vae_lib` fetches it")
