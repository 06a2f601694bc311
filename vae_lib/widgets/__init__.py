"""Live figures: the same object in a notebook with a kernel and on a page without one.

Not imported by `import vae_lib`: they need the package anywidget, which the library does not
(`pip install "vae-lib[widgets]"`).
"""

from vae_lib.widgets.explorer import LatentExplorer

__all__ = ["LatentExplorer"]
