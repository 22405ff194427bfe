"""Draw the picture of the model: `python tests/draw_pipeline.py RUN SLICES`.

It writes three pictures into book/_static, which the front page and the chapters show: wide,
narrow (of a phone) and small. All numbers in them are one test case's of a synthetic run, never
a person's. RUN is the folder of a run whose nine chapters have ended, SLICES the folder of its
synthetic images. Run it again when the model, or what it says of that case, has changed.
"""

import base64
import io
import sys
from pathlib import Path
from xml.sax.saxutils import escape

import matplotlib as mpl
import nibabel
import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageFont

from memoir_core.cohort import load_cohort
from memoir_core.config import SCORES
from memoir_core.files import read_jsonl
from memoir_core.inference import load_trained

STATIC = Path(__file__).parent.parent / "book" / "_static"
CASE = 157  # has both volumes, lacks a score, and was asked about in chapter 9
LABELS = {"CDRSB": "CDR-SB", "ADAS11": "ADAS-11", "ADAS13": "ADAS-13", "MMSE": "MMSE"}
COLOURS = ("f-t1", "f-fa", "f-cl")  # classes; "fa" alone is an icon font's
GATES = ("10", "30", "5")  # published masking probabilities, in percent
LLM = "gemma-3-270m-nf4"

# Colours for the eye, in both themes; the picture is part of the page and follows its theme.
STYLE = """
.flow{--ground:#fff;--card:#f6f7f8;--ink:#1f2328;--soft:#4b5563;--line:#6b7280;--t1:#0072b2;
--fa:#007a5a;--cl:#a8487c;--out:#9a5f00;--here:#d55e00;--hot:#fdeee3;background:var(--ground)}
html[data-theme=dark] .flow,body[data-jp-theme-light=false] .flow{--ground:#14181e;--card:#212730;
--ink:#eceff3;--soft:#b6bec9;--line:#8b95a3;--t1:#62bdf0;--fa:#3ecf9f;--cl:#eb9fc7;--out:#f0b64d;
--here:#ff9a52;--hot:#3a2a1e}
.flow text{fill:var(--ink);font:12px Helvetica,Arial,sans-serif}
.flow .b{font-weight:700}.flow .s{fill:var(--soft);font-size:11px}
.flow .m{font:11px Menlo,Consolas,monospace}.flow .e{text-anchor:end}.flow .c{text-anchor:middle}
.flow .f-card{fill:var(--card);stroke:var(--line)}.flow .f-t1{stroke:var(--t1)}
.flow .f-fa{stroke:var(--fa)}.flow .f-cl{stroke:var(--cl)}.flow .f-out{stroke:var(--out)}
.flow .f-t1-in{fill:var(--t1)}.flow .f-fa-in{fill:var(--fa)}.flow .f-cl-in{fill:var(--cl)}
.flow .f-out-in{fill:var(--out)}.flow .f-rail{fill:none;stroke:var(--line)}
.flow .f-arrow{fill:none;stroke:var(--line);stroke-width:1.5}.flow .f-tip{fill:var(--line)}
.flow image{image-rendering:pixelated}.flow .smooth{image-rendering:auto}
""".replace("\n", "")


def facts(run: Path, slices: Path) -> dict:
    """Read all that is shown of the case."""
    cohort = load_cohort(run / "cohort.parquet").set_index("case", drop=False)
    row = cohort.loc[CASE]
    (network, _), stored = load_trained(run / "stage2"), np.load(run / "stage2" / "embeddings.npz")
    z, present = (torch.tensor(stored[k][[CASE]]) for k in ("z", "present"))
    with torch.no_grad():
        fused = network.fuse(z, present)
    guessed = pd.read_parquet(run / "stage2" / "test_predictions.parquet").set_index("case")
    found = {r["case"]: r for r in read_jsonl(run / "retrieval.jsonl") if r["protocol"] == "blind"}
    asked = next(r for r in read_jsonl(run / "plan.jsonl") if r["id"].startswith(_question()))
    answers = read_jsonl(run / "answers" / LLM / "answers.jsonl")
    volumes = [nibabel.load(slices / row[f"{kind}_path"]) for kind in ("t1", "fa")]
    return {
        "row": row,
        "slices": [np.asanyarray(v.dataobj)[:, :, 44] for v in volumes],
        "z": z[0].numpy(),
        "z_fused": fused["z_fused"][0].numpy(),
        "attention": fused["attention"][0].tolist(),
        "guessed": guessed.loc[CASE],
        "found": found[CASE],
        "dx": cohort["DX"],
        "n": int((cohort["split"] != "test").sum()),
        "captions": {r["case"]: r["caption"] for r in read_jsonl(run / "captions.jsonl")},
        "prompt": asked["prompt"].split("\n"),
        "answer": next(r["answer"] for r in answers if r["id"] == asked["id"]),
    }


def _question() -> str:
    return f"blind/diagnosis/{CASE}/"


def picture(values: np.ndarray, colours: str = "gray", top: float | None = None) -> str:
    """Make a PNG of numbers, a pixel each, to be written into the picture."""
    scaled = np.clip(values / (top or np.percentile(values, 99.7)), -1, 1)
    if colours != "gray":
        scaled = scaled / 2 + 0.5
    pixels = (mpl.colormaps[colours](scaled)[..., :3] * 255).astype(np.uint8)
    image = Image.fromarray(pixels)
    if colours == "gray":
        image = image.convert("L")
    image.save(data := io.BytesIO(), "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def axial(plane: np.ndarray) -> str:
    return picture(np.rot90(plane).astype(float))


def strip(vector: np.ndarray, rows: int) -> str:
    return picture(vector.reshape(rows, -1), "RdBu_r", float(np.percentile(np.abs(vector), 98)))


FONTS = {"b": ("DejaVuSans-Bold.ttf", 12), "": ("DejaVuSans.ttf", 12), "s": ("DejaVuSans.ttf", 11)}
FONTS["m"] = ("DejaVuSansMono.ttf", 11)


def wide(text: str, kind: str) -> float:
    """How wide a text is at most: DejaVu is wider than the fonts that are asked for."""
    name, size = FONTS[next((k for k in kind.split() if k in FONTS), "")]
    folder = Path(mpl.get_data_path()) / "fonts" / "ttf"
    narrower = 1 if "m" in kind.split() else 0.92
    return narrower * ImageFont.truetype(str(folder / name), size).getlength(text)


class Sheet:
    """A picture that grows downwards; a text that would leave its card is refused."""

    def __init__(self, width: int) -> None:
        self.width, self.parts, self.y = width, [], 8.0
        self.inside = (0.0, float(width))

    def card(self, x: float, width: float, height: float, kind: str = "", y: float = -1) -> None:
        y = self.y if y < 0 else y
        place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
        self.parts.append(f'<rect class="f-card {kind}" {place} rx="7" stroke-width="1.5"/>')
        self.inside = (x, x + width)

    def text(self, x: float, y: float, words: str, kind: str = "") -> None:
        length, (left, right) = wide(words, kind), self.inside
        shift = length * {"e": 1, "c": 0.5}.get(kind.split()[-1] if kind else "", 0)
        if x - shift < left + 3 or x - shift + length > right - 3:
            raise ValueError(f"{words!r} needs {length:.0f} of {right - left:.0f}, from {x - left}")
        named = f' class="{kind}"' if kind else ""
        self.parts.append(f'<text{named} x="{x:g}" y="{y:g}">{escape(words)}</text>')

    def image(self, x: float, y: float, width: float, height: float, data: str, how="") -> None:
        place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
        named = f' class="{how}"' if how else ""
        self.parts.append(f'<image{named} {place} preserveAspectRatio="none" href="{data}"/>')

    def bar(self, x: float, y: float, width: float, share: float, kind: str) -> None:
        place = f'x="{x:g}" y="{y:g}" height="8"'
        self.parts.append(f'<rect class="f-rail" {place} width="{width:g}"/>')
        self.parts.append(f'<rect class="{kind}" {place} width="{width * share:.1f}"/>')

    def arrow(self, x: float, y: float, x1: float, y1: float) -> None:
        """An arrow to (x1, y1): straight down, or to the right."""
        tip = f"M{x1 - 4} {y1 - 6}h8l-4 6z" if x == x1 else f"M{x1 - 6} {y1 - 4}v8l6-4z"
        self.parts.append(f'<path class="f-arrow" d="M{x:g} {y:g}L{x1:g} {y1:g}"/>')
        self.parts.append(f'<path class="f-tip" d="{tip}"/>')

    def title(self, x: float, y: float, words: str, chapter: str, right: float) -> None:
        self.text(x, y, words, "b")
        self.text(right - 7, y, f"ch. {chapter}", "s e")

    def save(self, name: str, about: str, extra: str = "") -> None:
        head = f'<svg xmlns="http://www.w3.org/2000/svg" class="flow flow-{name}"{extra} role="img"'
        head += f' viewBox="0 0 {self.width} {self.y:g}" aria-label="{escape(about)}">'
        text = f"{head}\n<style>{STYLE}</style>\n" + "\n".join(self.parts) + "\n</svg>\n"
        (STATIC / f"pipeline_{name}.svg").write_text(text, encoding="utf-8")


def known(value: float, form: str = ".0f") -> str:
    return "?" if pd.isna(value) else f"{value:{form}}"


def broken(words: str, width: float, kind: str, most: int) -> list[str]:
    """Break a text into lines; where there are more than `most`, it ends with dots."""
    lines = [""]
    for word in words.split():
        if wide(f"{lines[-1]} {word}", kind) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    if len(lines) > most:
        lines = lines[:most]
        while wide(lines[-1] + " ...", kind) > width:
            lines[-1] = lines[-1].rpartition(" ")[0]
        lines[-1] += " ..."
    return lines


def draw(told: dict, width: int) -> Sheet:
    """Draw the whole model, `width` 760 for a desk, 360 for a phone."""
    sheet, phone, gap = Sheet(width), width < 500, 8 if width < 500 else 14
    column = (width - 16 - 2 * gap) / 3
    lefts = [8 + i * (column + gap) for i in range(3)]
    _inputs(sheet, told, lefts, column, phone)
    _encoders(sheet, told, lefts, column, phone)
    _fusion(sheet, told, lefts, column, phone)
    _heads(sheet, told, phone)
    _retrieval(sheet, told, phone)
    row = told["row"]
    sex = {"Female": "a woman", "Male": "a man"}[row["PTGENDER"]]
    note = f"Example values: one test case of the synthetic cohort, {sex} of {row['AGE']:.0f} with"
    note += f" {row['DX'].lower()}, profile quick, seed 0. No real person."
    sheet.inside = (0, width)
    for line in broken(note, width - 20, "s", 4):
        sheet.text(8, sheet.y + 12, line, "s")
        sheet.y += 15
    sheet.y += 6
    return sheet


def _inputs(sheet: Sheet, told: dict, lefts: list, column: float, phone: bool) -> None:
    high, row = 190 if phone else 132, told["row"]
    names = ("T1 MRI", "DTI-FA", "Scores")
    for i, (left, name) in enumerate(zip(lefts, names, strict=True)):
        sheet.card(left, column, high, COLOURS[i])
        sheet.title(left + 8, sheet.y + 17, name, "221"[i], left + column)
    for left, plane, said in zip(lefts[:2], told["slices"], _said(phone), strict=True):
        sheet.inside = (left, left + column)
        size = (91, 109) if phone else (80, 96)
        sheet.image(left + 9, sheet.y + 27, *size, axial(plane), "smooth")
        for n, line in enumerate(said):
            where = (8, 151 + 14 * n) if phone else (98, 46 + 17 * n)
            sheet.text(left + where[0], sheet.y + where[1], line, "s")
    rows = [(LABELS.get(n, "MoCA"), known(row[n], ".0f" if n == "MMSE" else ".3g")) for n in SCORES]
    rows.append(("APOE e4", f"{row['APOE4']:.0f} of 2"))
    sheet.inside = (lefts[2], lefts[2] + column)
    for n, (name, value) in enumerate(rows):
        step = 21 if phone else 17
        sheet.text(lefts[2] + 8, sheet.y + 40 + step * n, name)
        end = column - 8 if phone else 130
        sheet.text(lefts[2] + end, sheet.y + 40 + step * n, value, "b e")
    said = ["? is unknown"] if phone else ["?: was not", "measured"]
    for n, line in enumerate(said):
        where = (8, 40 + 6 * 21 + 8) if phone else (150, 74 + 17 * n)
        sheet.text(lefts[2] + where[0], sheet.y + where[1], line, "s")
    sheet.y += high


def _said(phone: bool) -> list[list[str]]:
    if phone:
        return [
            ["anatomy,", "91 x 109 x 91", "voxels"],
            ["white matter;", "39 % of people", "have one"],
        ]
    return [
        ["anatomy", "91 x 109 x 91", "voxels of 2 mm"],
        ["white matter,", "91 x 109 x 91;", "39 % of people", "have one"],
    ]


def _encoders(sheet: Sheet, told: dict, lefts: list, column: float, phone: bool) -> None:
    for kind, left, name in zip(COLOURS, lefts, ("3D ResNet-18",) * 2 + ("MLP",), strict=True):
        middle = left + column / 2
        sheet.arrow(middle, sheet.y, middle, sheet.y + 16)
        sheet.card(left, column, 26, kind, sheet.y + 16)
        sheet.text(middle, sheet.y + 33, name, "b c")
        if not phone:
            sheet.text(left + column - 7, sheet.y + 33, "ch. 3", "s e")
        sheet.arrow(middle, sheet.y + 42, middle, sheet.y + 58)
    sheet.y += 58
    high, names = 64 if phone else 62, ("z_t1", "z_fa", "z_clinical")
    for i, (left, name) in enumerate(zip(lefts, names, strict=True)):
        sheet.card(left, column, high, COLOURS[i])
        rows = 16 if phone else 8
        sheet.image(left + 8, sheet.y + 8, column - 16, 30, strip(told["z"][i], rows))
        words = f"{name}, 512-d" if phone else f"{name}: 512 numbers, length 1"
        sheet.text(left + 8, sheet.y + high - 9, words, "" if not phone else "s")
        if not phone:
            sheet.text(left + column - 7, sheet.y + high - 9, "ch. 4", "s e")
    sheet.y += high
    for i, left in enumerate(lefts):
        middle = left + column / 2
        sheet.arrow(middle, sheet.y, middle, sheet.y + 16)
        sheet.card(left, column, 40 if phone else 26, COLOURS[i], sheet.y + 16)
        words = ["present: 1", f"hides {GATES[i]} %"]
        if phone:
            sheet.text(middle, sheet.y + 32, words[0], "b c")
            sheet.text(middle, sheet.y + 47, words[1], "s c")
        else:
            sheet.text(left + 8, sheet.y + 33, words[0], "b")
            sheet.text(left + column - 7, sheet.y + 33, f"training {words[1]}", "s e")
    sheet.y += 56 if phone else 42
    sheet.inside = (0, sheet.width)
    note = "The presence mask. Without FA it is 1 0 1: that column is not looked at"
    note += " (ch. 6). In training a gate hides some at random."
    for line in broken(note, sheet.width - 22, "s", 3):
        sheet.text(8, sheet.y + 15, line, "s")
        sheet.y += 15
    sheet.y += 6


def _fusion(sheet: Sheet, told: dict, lefts: list, column: float, phone: bool) -> None:
    for left in lefts:
        middle = left + column / 2
        sheet.arrow(middle, sheet.y, middle, sheet.y + 14)
    sheet.y += 14
    whole = sheet.width - 16
    half = whole - 16 if phone else (whole - 24) / 2
    high = 28 + 94 + 78 + 8 if phone else 124
    sheet.card(8, whole, high)
    sheet.title(16, sheet.y + 18, "Cross-attention fusion", "3", 8 + whole)
    top = sheet.y + 28
    sheet.card(16, half, 86, "", top)
    sheet.text(24, top + 17, "1  Attention, 8 heads", "b")
    said = "A learned pool query weighs the three tokens:"
    sheet.text(24, top + 34, said, "s")
    x, parts = 24.0, zip(COLOURS, ("T1", "FA", "scores"), told["attention"], strict=True)
    for kind, name, share in parts:
        length = (half - 16) * share
        place = f'x="{x:.1f}" y="{top + 43:g}" width="{length:.1f}" height="14"'
        sheet.parts.append(f'<rect class="{kind}-in" {place}/>')
        label = f"{name} {share:.2f}"
        sheet.text(x if kind != "f-fa" else x - 6, top + 74, label, "s")
        x += length
    left, low = (16, top + 94) if phone else (24 + half, top)
    sheet.card(left, half, 78 if phone else 86, "", low)
    sheet.text(left + 8, low + 17, "2  MLP, 512 to 512", "b")
    lines = broken("Two layers; what they make is added to what came in.",
                   half - 16, "s", 2)  # fmt: skip
    for n, line in enumerate(lines):
        sheet.text(left + 8, low + 34 + 15 * n, line, "s")
    sheet.text(left + 8, low + 69, "LayerNorm(x + MLP(x))", "m")
    if not phone:
        sheet.arrow(16 + half, top + 43, left, top + 43)
    sheet.y += high
    middle = sheet.width / 2
    sheet.arrow(middle, sheet.y, middle, sheet.y + 16)
    sheet.y += 16
    sheet.card(8, whole, 58)
    rows = 8 if phone else 4
    sheet.image(16, sheet.y + 8, whole - 16, 28, strip(told["z_fused"], rows))
    sheet.text(16, sheet.y + 50, "z_fused: 512 numbers, frozen once trained", "b")
    sheet.y += 58


def _heads(sheet: Sheet, told: dict, phone: bool) -> None:
    guess, row = told["guessed"], told["row"]
    middle = sheet.width / 2
    sheet.arrow(middle, sheet.y, middle, sheet.y + 26)
    sheet.inside = (0, sheet.width)
    sheet.text(8, sheet.y + 20, "Five heads", "b")
    sheet.text(sheet.width - 15, sheet.y + 20, "ch. 5", "s e")
    sheet.y += 27
    gap, whole = 8, sheet.width - 16
    wide_one = whole if phone else 208
    small = (whole - gap) / 2 if phone else (whole - wide_one - 4 * gap) / 4
    high = 80
    sheet.card(8, wide_one, high, "f-out")
    sheet.text(16, sheet.y + 17, "Diagnosis", "b")
    for n, name in enumerate(("CN", "MCI", "Dementia")):
        y, share = sheet.y + 34 + 17 * n, guess[f"p_{name}"]
        sheet.text(16, y, name)
        sheet.bar(78, y - 8, wide_one - 78 - 36, share, "f-out-in")
        sheet.text(wide_one, y, f"{share:.2f}", "e")
    others = [
        ("CN v dementia", f"{guess['p2_Dementia']:.2f}", "for dementia"),
        ("Sex", f"{1 - guess['p_Male']:.2f}", "for a woman"),
        ("Age", f"{guess['AGE_pred']:.1f}", f"years; is {row['AGE']:.1f}"),
        ("CDR-SB", f"{guess['CDRSB_pred']:.1f}", f"points; is {row['CDRSB']:.0f}"),
    ]
    for n, (name, value, said) in enumerate(others):
        if phone:
            left, y = 8 + n % 2 * (small + gap), sheet.y + high + gap + n // 2 * (62 + gap)
        else:
            left, y = 8 + wide_one + gap + n * (small + gap), sheet.y
        sheet.card(left, small, 62 if phone else high, "f-out", y)
        sheet.text(left + 8, y + 17, name, "b")
        sheet.text(left + 8, y + (36 if phone else 42), value)
        sheet.text(left + 8, y + (53 if phone else 62), said, "s")
    sheet.y += high + (2 * (62 + gap) if phone else 0) + 12


def _retrieval(sheet: Sheet, told: dict, phone: bool) -> None:
    whole = sheet.width - 16
    sheet.inside = (0, sheet.width)
    line = f'<path d="M8 {sheet.y + 4:g}H{8 + whole}" class="f-rail" stroke-dasharray="3 5"/>'
    sheet.parts.append(line)
    sheet.text(8, sheet.y + 22, "z_fused searches; from here on, no image: only words.", "b")
    sheet.y += 32
    found, half = told["found"], whole if phone else (whole - 34) * 0.4
    high = 128
    sheet.card(8, half, high)
    sheet.title(16, sheet.y + 18, "FAISS index", "8", 8 + half)
    sheet.text(16, sheet.y + 36, f"Nearest of {told['n']} train cases, by cosine:", "s")
    for n, (case, score) in enumerate(zip(found["retrieved"][:4], found["scores"], strict=False)):
        y = sheet.y + 54 + 16 * n
        sheet.text(16, y, f"case {case}, {told['dx'][case]}")
        sheet.text(half - 8, y, f"{score:.3f}", "e")
    sheet.text(16, sheet.y + 119, f"... {len(found['retrieved'])} in all", "s")
    _captions(sheet, told, half, high, phone)
    _prompt(sheet, told, half, phone)


def _captions(sheet: Sheet, told: dict, half: float, high: float, phone: bool) -> None:
    whole, kept = sheet.width - 16, told["found"]["reranked"]
    if phone:
        sheet.arrow(sheet.width / 2, sheet.y + high, sheet.width / 2, sheet.y + high + 16)
        left, width, top = 8.0, float(whole), sheet.y + high + 16
        sheet.y = top
    else:
        left, width, top = 8 + half + 34, whole - half - 34, sheet.y
        sheet.arrow(8 + half, top + high / 2, left, top + high / 2)
    sheet.card(left, width, high, "", top)
    sheet.title(left + 8, top + 18, "Captions", "7", left + width)
    numbers = ", ".join(map(str, kept))
    sheet.text(left + 8, top + 36, f"A cross-encoder keeps five: {numbers}", "s")
    words = f"Case {kept[0]}: {told['captions'][kept[0]]}"
    for n, line in enumerate(broken(words, width - 18, "", 4)):
        sheet.text(left + 8, top + 54 + 16 * n, line)
    sheet.text(left + 8, top + 119, "MiniLM makes 512 numbers of each text, too", "s")
    sheet.y = top + high


def _prompt(sheet: Sheet, told: dict, half: float, phone: bool) -> None:
    whole = sheet.width - 16
    wide_one = whole if phone else whole - 34 - 190
    middle = 8 + wide_one / 2
    down = middle if phone else middle + 150  # from the captions
    sheet.arrow(down, sheet.y, down, sheet.y + 16)
    sheet.y += 16
    lines, said = [], [line for line in told["prompt"] if line]
    for line in (*said[1:4], "...", *said[-2:]):  # the question, a case, the case that is asked
        lines += broken(line, wide_one - 18, "m", 3 if phone else 2)
    high = 32 + 15 * len(lines)
    sheet.card(8, wide_one, high)
    sheet.title(16, sheet.y + 18, "Prompt", "9", 8 + wide_one)
    for n, line in enumerate(lines):
        sheet.text(16, sheet.y + 37 + 15 * n, line, "m")
    if phone:
        sheet.arrow(middle, sheet.y + high, middle, sheet.y + high + 16)
        left, top, tall = 8.0, sheet.y + high + 16, 68
    else:
        left, top, tall = 8 + wide_one + 34, sheet.y, high
        sheet.arrow(8 + wide_one, top + high / 2, left, top + high / 2)
    width = whole + 8 - left
    sheet.card(left, width, tall, "f-out", top)
    sheet.title(left + 8, top + 18, "Answer", "9", left + width)
    sheet.text(left + 8, top + 38, f"{told['answer']} (true: {told['row']['DX']})", "b")
    sheet.text(left + 8, top + 56, "Gemma 3 270M, NF4,", "s")
    if phone:
        sheet.parts.pop()
        sheet.text(left + 8, top + 56, "Gemma 3 270M, NF4, a stand-in for larger ones", "s")
    else:
        sheet.text(left + 8, top + 71, "a stand-in for larger ones", "s")
        sheet.text(left + 8, top + 98, "Scored, with controls", "s")
        sheet.text(left + 8, top + 113, "and intervals: ch. 9 to 11", "s")
    sheet.y = top + tall + 4


# What the small picture holds, in the order of the flow: name, chapters that are about it
STATIONS = {
    "T1": "01 02", "FA": "01 02", "scores, APOE": "01 11", "3 embeddings": "03 04",
    "mask": "03 06", "fusion": "03", "z_fused": "03 05", "5 heads": "05",
    "captions": "07 11", "FAISS": "08", "answer": "09", "report": "10 11",
}  # fmt: skip


def small(told: dict) -> Sheet:
    """Draw the model in small, in three rows; the parts of chapter CHAPTER are outlined."""
    sheet, width, high = Sheet(360), 80, 66
    guess, found = told["guessed"], told["found"]
    for n, (name, chapters) in enumerate(STATIONS.items()):
        x, y = 6 + n % 4 * 90, 6 + n // 4 * 76
        about = " ".join(f"c{c}" for c in chapters.split())
        sheet.parts.append(f'<g class="f-part {about}">')
        sheet.card(x, width, high, "", y)
        sheet.text(x + width / 2, y + 60, name, "s c")
        middle = x + width / 2
        if name in ("T1", "FA"):
            plane = told["slices"][name == "FA"]
            sheet.image(middle - 18, y + 4, 36, 43, axial(plane[::2, ::2]), "smooth")
        elif name.startswith("scores"):
            for k, column in enumerate(("MMSE", "MOCA", "APOE4")):
                sheet.text(x + 8, y + 15 + 13 * k, ("MMSE", "MoCA", "APOE")[k], "s")
                sheet.text(x + width - 8, y + 15 + 13 * k, known(told["row"][column]), "s e")
        elif name == "3 embeddings":
            for k in range(3):
                sheet.image(x + 8, y + 7 + 14 * k, width - 16, 10, strip(told["z"][k], 8))
        elif name == "mask":
            for k, said in enumerate("101"):
                sheet.parts.append(f'<rect class="f-rail" x="{x + 9 + 21 * k}" y="{y + 14}" '
                                   'width="19" height="22" rx="3"/>')  # fmt: skip
                sheet.text(x + 18.5 + 21 * k, y + 29, said, "b c")
        elif name == "fusion":
            at = x + 8.0
            for kind, share in zip(COLOURS, told["attention"], strict=True):
                length = (width - 16) * share
                sheet.parts.append(f'<rect class="{kind}-in" x="{at:.1f}" y="{y + 26}" '
                                   f'width="{length:.1f}" height="14"/>')  # fmt: skip
                at += length
            sheet.text(middle, y + 19, "8 heads", "s c")
        elif name == "z_fused":
            sheet.image(x + 8, y + 9, width - 16, 32, strip(told["z_fused"], 16))
        elif name == "5 heads":
            shares = [guess["p_CN"], guess["p_MCI"], guess["p_Dementia"], guess["p2_Dementia"]]
            for k, share in enumerate([*shares, 1 - guess["p_Male"]]):
                sheet.bar(x + 8, y + 5 + 9 * k, width - 16, share, "f-out-in")
        elif name == "captions":
            for k, line in enumerate(("A 69-year-", "old woman,", "MMSE 21 ...")):
                sheet.text(x + 6, y + 15 + 14 * k, line, "s")
        elif name == "FAISS":
            nearest = zip(found["retrieved"][:3], found["scores"], strict=False)
            for k, (case, score) in enumerate(nearest):
                sheet.text(x + 6, y + 15 + 14 * k, str(case), "s")
                sheet.text(x + width - 6, y + 15 + 14 * k, f"{score:.3f}", "s e")
        elif name == "answer":
            for k, line in enumerate(("Answer:", told["answer"])):
                sheet.text(x + 6, y + 20 + 16 * k, line, "m")
        else:
            for k, (low, value, top) in enumerate(((20, 34, 46), (30, 44, 58), (12, 22, 34))):
                line, dot = y + 12 + 13 * k, x + value
                path = f'<path class="f-arrow" d="M{x + low} {line}h{top - low}"/>'
                sheet.parts.append(f'{path}<circle class="f-t1-in" cx="{dot}" cy="{line}" r="3"/>')
        sheet.parts.append("</g>")
        if n % 4 < 3:
            sheet.arrow(x + width, y + high / 2, x + 90, y + high / 2)
    sheet.y = 6 + 3 * 76 - 4
    return sheet


def main(run: Path, slices: Path) -> None:
    told = facts(run, slices)
    about = (
        "The model with the values of one synthetic test case. A T1 slice, an FA slice and a table"
        " of five scores and APOE pass an encoder each and become three embeddings of 512 numbers."
        " A presence mask says which are there. Cross-attention fusion weighs them, and an MLP"
        " follows: z_fused, 512 numbers. Five heads read it: diagnosis, CN v dementia, sex, age and"
        f" CDR-SB. z_fused then searches a FAISS index of {told['n']} train cases; a cross-encoder"
        " keeps five, whose captions stand in the prompt of a language model. It answers"
        f" {told['answer']}, which is right."
    )
    for name, width in (("wide", 760), ("narrow", 360)):
        draw(told, width).save(name, about)
    here = "".join(
        f'.flow[data-chapter="{k}"] .c{k} .f-card'
        "{stroke:var(--here);stroke-width:3;fill:var(--hot)}"
        for k in (f"{n:02}" for n in range(1, 12))
    )
    sheet = small(told)
    sheet.parts.insert(0, f"<style>{here}</style>")
    order = ", ".join(STATIONS)
    sheet.save(
        "small",
        f"The model in small, with values of one synthetic case, from left to right: {order}."
        " Outlined: what chapter CHAPTER is about.",
        ' data-chapter="CHAPTER"',
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
