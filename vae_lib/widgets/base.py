"""What all live figures share: a picture and a text that stand where no script runs."""

import base64
import io

import anywidget
import matplotlib.pyplot as plt
from matplotlib.figure import Figure


class LiveFigure(anywidget.AnyWidget):
    """A widget whose output in a notebook also carries a picture of itself.

    A subclass names its ES module (`_esm`), draws `static_figure()` and gives a `repr` that is the
    same in every run. The picture is what is seen where no script runs: without JavaScript, in
    print, and where a notebook is shown but not run.
    """

    def static_figure(self) -> Figure:
        """Draw the widget's first state with matplotlib. The caller closes the figure."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict] | dict | None:
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        figure = self.static_figure()
        try:
            picture = io.BytesIO()
            figure.savefig(picture, format="png", dpi=110, metadata={"Software": None})
        finally:
            plt.close(figure)
        data = data | {
            "text/plain": repr(self),
            "image/png": base64.b64encode(picture.getvalue()).decode("ascii"),
        }
        return data, metadata
