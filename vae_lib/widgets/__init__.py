"""Live figures: the same object in a notebook with a kernel and on a page without one.

Not imported by `import vae_lib`: they need the package anywidget, which the library does not
(`pip install "vae-lib[widgets]"`).
"""

from vae_lib.widgets.explorer import LatentExplorer
from vae_lib.widgets.rate_distortion import RateDistortion
from vae_lib.widgets.reparameterisation import Reparameterisation
from vae_lib.widgets.two_gaussians import TwoGaussians

__all__ = ["LatentExplorer", "RateDistortion", "Reparameterisation", "TwoGaussians"]
