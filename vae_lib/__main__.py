"""`python -m vae_lib` fetches MNIST ahead of time and says what it did."""

import sys

from vae_lib.data import main

sys.exit(main())
