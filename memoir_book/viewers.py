"""Viewers that need no kernel: the browser changes embedded pictures and words itself.

The markup is in viewers.html.j2, which escapes every word.
"""

import base64
import gzip
import io
import zlib
from contextlib import suppress
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from IPython.core.pylabtools import print_figure
from IPython.display import HTML, display
from matplotlib.figure import Figure
from nibabel import Nifti1Image

from . import published
from .chapters import VOLUMES
from .plots import brain_rows


def brain_viewer(
    shown: dict[str, Nifti1Image], title: str, unit: str = "", under: Any = None, own: bool = False
) -> None:
    """Display volumes (name -> image) in slices and 3D: NiiVue, live ipyniivue, or else a picture.

    unit : of their values. under : a grey image below them; they are then maps with a sign.
    own : may readers lay a volume of theirs over `under`? The first of `shown`, a mask, judges it.
    """
    values = {name: image.get_fdata(dtype=np.float32) for name, image in shown.items()}
    picture = brain_rows(values, title, under.get_fdata() if under else None, unit)
    top = max(float(np.abs(v).max()) for v in values.values()) or 1.0
    ends = {"colormap_negative": "blue2cyan", "cal_min": top / 10, "cal_max": top}
    layers, files = list[dict](), dict[str, str]()
    for name, image in {**({"under": under} if under else {}), **shown}.items():
        small = Nifti1Image(image.get_fdata(dtype=np.float32), image.affine)
        small.set_data_dtype(np.uint8)  # 256 levels, and a scale
        packed = gzip.compress(small.to_bytes(), mtime=0)
        files[f"v{zlib.crc32(packed):08x}{len(files)}"] = base64.b64encode(packed).decode()
        how = {"colormap": "redyell", **ends} if under and len(files) > 1 else {"colormap": "gray"}
        layers.append({"name": f"{name}.nii.gz", **how})
    told = {"files": [*files], "layers": layers, "base": bool(under), "unit": unit, "own": own}
    words = {"alt": picture.get_label(), "picture": png(picture), "title": title}
    page = {"text/html": show("brain", told=told, **words).data, VOLUMES: files}
    display(page | _live(layers, files, bool(under)), raw=True)


def _live(layers: list[dict], files: dict[str, str], base: int) -> dict:
    """The same as a widget, which a notebook prefers while its kernel lives."""
    with suppress(ImportError):  # it is not everywhere, such as on Colab
        from ipyniivue import NiiVue, Volume
        from ipywidgets import VBox, interactive

        given = zip(layers, map(base64.b64decode, files.values()), strict=True)
        made = {layer["name"]: Volume(data=raw, **layer) for layer, raw in given}
        under, live = [*made.values()][:base], NiiVue(height=400)
        load = lambda shown: live.load_volumes([*under, made[shown]])  # noqa: E731
        pick = interactive(load, shown=[*made][base:], clear_output=False)
        return VBox([pick, live])._repr_mimebundle_()
    return {}


def show(macro: str, **values: Any) -> Any:
    """Show a viewer of viewers.html.j2, such as 'slider' or 'explorer', with its words."""
    key = f"{macro}{zlib.crc32(str(values).encode())}"  # by which its script finds it
    page = getattr(published.template("viewers.html.j2").module, macro)
    return HTML(str(page(key=key, **values)).strip())


def png(figure: Figure) -> str:
    """A picture for `show`, as text; the figure is closed."""
    text = print_figure(figure, bbox_inches=None, base64=True, dpi=110)
    plt.close(figure)
    return f"data:image/png;base64,{text}"


def axial(volume: np.ndarray) -> str:
    """The middle axial slice of a volume (X, Y, Z) as a picture for `show`, as text."""
    middle = np.rot90(volume[:, :, int(volume.shape[2] * 0.48)]).astype(np.float32)
    grey = {"cmap": "gray", "vmin": min(0, middle.min()), "vmax": np.percentile(middle, 99.7)}
    plt.imsave(buffer := io.BytesIO(), middle, format="jpeg", **grey)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
