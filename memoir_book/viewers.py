"""Viewers that need no kernel: the browser changes embedded pictures and words itself.

The markup is in viewers.html.j2, which escapes every word.
"""

import base64
import html
import io
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML
from jinja2 import Environment
from matplotlib.figure import Figure
from PIL import Image

from .plots import DX_COLOURS


def slice_viewer(volumes: dict[str, np.ndarray], title: str) -> Any:
    """Walk through axial slices of volumes (X, Y, Z) of one shape, side by side, with a slider."""
    stack = np.stack([np.asarray(v, np.float32) for v in volumes.values()])
    beside = np.concatenate(np.rot90(_grey(stack), axes=(1, 2)), axis=1)  # (Y, names * X, Z)
    frames = [_jpeg(beside[:, :, z], 660) for z in range(beside.shape[2])]
    words = {"title": title, "moved": "slice", "alt": f"axial slices of {', '.join(volumes)}"}
    return _html("slider", frames=frames, labels=[*range(len(frames))], names=[*volumes], **words)


def figure_slider(figures: Iterable[tuple[str, Figure]], moved: str, title: str, alt: str) -> Any:
    """Step through matplotlib figures, which are closed, with a slider; the middle one comes first.

    `figures`: what the slider says, and its picture, one after the other; `moved`: what it moves.
    """
    frames, labels = [], []
    for label, figure in figures:
        figure.savefig(buffer := io.BytesIO(), format="png", dpi=80)
        plt.close(figure)
        frames.append(_data_url("png", buffer))
        labels.append(label)
    words = {"title": title, "moved": moved, "alt": alt}
    return _html("slider", frames=frames, labels=labels, names=[], **words)


def titled_frame(view: Any, title: str) -> Any:
    """Show one of nilearn's interactive views, named for screen readers, as wide as the page."""
    named = f'<iframe title="{html.escape(title)}" style="max-width:100%" '
    return HTML(f"<div>{view.get_iframe().replace('<iframe ', named, 1)}</div>")


def case_explorer(
    rows: list[dict], cohort: pd.DataFrame, volumes: np.ndarray, captions: list[dict], title: str
) -> Any:
    """Choose a query and a protocol; see its slice beside those of its five cases.

    `rows`: of retrieval.jsonl, about eight; `volumes`: (n, X, Y, Z) T1, row i is case i.
    """
    texts, cards = {row["case"]: row for row in captions}, {}
    for case in sorted({case for row in rows for case in (row["case"], *row["reranked"])}):
        middle = np.asarray(volumes[case][:, :, int(volumes.shape[3] * 0.48)], np.float32)
        card = {"slice": _jpeg(_grey(np.rot90(middle)), 150), "dx": cohort["DX"].iloc[case]}
        card |= {"caption": texts[case]["caption"], "blind": texts[case]["caption_blind"]}
        cards[case] = card | {"colour": DX_COLOURS[card["dx"]]}
    kept = ("case", "protocol", "reranked", "rerank_scores")
    queries = [{name: row[name] for name in kept} for row in rows]
    return _html("explorer", queries=queries, cards=cards, title=title)


def transcript(answers: dict[str, pd.DataFrame], captions: list[dict], title: str) -> Any:
    """Show what every model was asked about one case, blind, and what it said.

    `answers`: model -> its answers, as chapter 9 reads them. The case that was asked most is shown.
    """
    texts = {row["case"]: row for row in captions}
    said = pd.concat([table.assign(llm=name) for name, table in answers.items()])
    said = said[said["protocol"] == "blind"]
    said = said[said["case"] == said["case"].mode()[0]]
    questions = [rows.to_dict("records") for _, rows in said.groupby("kind", sort=False)]
    first = questions[0][0]
    found = [(other, texts[other]["caption"]) for other in first["cases_used"]]
    blind = texts[first["case"]]["caption_blind"]
    return _html("transcript", blind=blind, found=found, questions=questions, title=title)


def _html(macro: str, **values: Any) -> Any:
    source = Path(__file__).with_name("viewers.html.j2").read_text(encoding="utf-8")
    key = f"{macro}{zlib.crc32(str(values).encode())}"  # by which its script finds it
    page = getattr(Environment(autoescape=True).from_string(source).module, macro)
    return HTML(str(page(key=key, **values)).strip())


def _grey(values: np.ndarray) -> np.ndarray:
    """Scale to 0..255, with the brightest 0.3 % clipped."""
    low, high = min(0.0, float(values.min())), float(np.percentile(values, 99.7))
    return (255 * np.clip((values - low) / (high - low), 0, 1)).astype(np.uint8)


def _jpeg(grey: np.ndarray, width: int) -> str:
    picture = Image.fromarray(grey).resize((width, width * len(grey) // grey.shape[1]))
    picture.save(buffer := io.BytesIO(), "JPEG", quality=80)
    return _data_url("jpeg", buffer)


def _data_url(kind: str, buffer: io.BytesIO) -> str:
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()
