"""Whatever a page holds of a download is found, wherever it hides; a clean page is clean."""

import base64
import gzip
import html
import io
import json
import zipfile
import zlib

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from memoir_book import scan_site
from memoir_book.scan_site import find_in_text, main, read_identifiers, scan, scan_bytes

PTID, RID, DATE, UID = "137_S_4203", "4203", "2012-05-31", "61234"
T1 = "ADNI/137_S_4203/ADNI_MPRAGE_S21.nii.gz"
ODD = "from the scanner/first scan (good).nii.gz"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adni")
    visits = [
        {"RID": RID, "PTID": PTID, "VISCODE": "bl", "EXAMDATE": DATE, "IMAGEUID": UID},
        {"RID": "0007", "PTID": "022_S_0007", "VISCODE": "bl", "EXAMDATE": "9/8/2005"},
    ]
    images = [
        {"PTID": PTID, "VISCODE": "bl", "t1_path": T1, "fa_path": ""},
        {"PTID": "022_S_0007", "VISCODE": "bl", "t1_path": ODD, "fa_path": ""},
    ]
    pd.DataFrame(visits).to_csv(folder / "ADNIMERGE.csv", index=False)
    pd.DataFrame(images).to_csv(folder / "images.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def ids(data):
    return read_identifiers(data)


def kinds(text, ids):
    return {kind for *_, kind in find_in_text(text, ids)}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("subject 137_S_4203 here", "PTID"),
        ("sub-ADNI137S4203", "PTID"),
        ("137-s-4203", "PTID"),
        ("022_S_0007", "PTID"),
        ("941_S_1234", "text in the form of a PTID"),
        ("RID 4203", "RID"),
        ("rid=04203", "RID"),
        ('"RID": 7,', "RID"),
        ("RID</th><td>4203", "RID"),
        ("subject id: 0007", "RID"),
        ("S_0007", "RID"),
        ("on 2012-05-31T10:00", "exam date"),
        ("20120531", "exam date"),
        ("ADNI_20120531_S1", "exam date"),
        ("31.05.2012", "exam date"),
        ("5/31/2012", "exam date"),
        ("05/31/12", "exam date"),
        ("31/05/2012", "exam date"),
        ("31 May 2012", "exam date"),
        ("May 31, 2012", "exam date"),
        ("31-MAY-2012", "exam date"),
        ("I61234", "image ID"),
        ("IMAGEUID: 61234", "image ID"),
        ("file:///data/" + T1, "image file or data folder"),
        ("adni_mprage_s21.nii.gz", "image file or data folder"),
        ("ADNI_MPRAGE_S21", "image file or data folder"),
        ("see " + ODD, "image file or data folder"),
    ],
)
def test_every_form_is_found(ids, text, kind):
    assert kind in kinds(text, ids)


def test_the_data_folder_is_found(ids, data):
    assert kinds(f"data_dir = '{data}'", ids) == {"image file or data folder"}


@pytest.mark.parametrize(
    "text",
    [
        "n = 4203 of 7 subjects, 4203 rows; 61234 voxels",
        "2,363 subjects, 7 of them",
        "one scan per subject: 7,000",
        "sub-ADNI999S9999 and 999_S_9999",
        "0.4203, 12.5.31, 1.31.12, 2012-06-30, 31 June 2012, 120120531",
        "RID, PTID, VISCODE; 7 columns",
        "the RIDs of 4203 people",
        "v5.31.12 first scan T1.nii.gz",
    ],
)
def test_numbers_that_are_none_are_left_alone(ids, text):
    assert kinds(text, ids) == set()


def test_without_a_download_only_the_form_of_a_ptid_counts():
    found = kinds(f"{PTID} RID {RID} {DATE}", scan_site.NOTHING)
    assert found == {"text in the form of a PTID"}


# --- where it can hide ------------------------------------------------------------------


def png(**chunks):
    info = PngInfo()
    if "text" in chunks:
        info.add_text("Comment", chunks["text"], zip=chunks.get("zip", False))
    if "itext" in chunks:
        info.add_itxt("Title", chunks["itext"], zip=chunks.get("zip", False))
    buffer = io.BytesIO()
    options = {}
    if "exif" in chunks:
        exif = Image.Exif()
        exif[0x010E] = chunks["exif"]
        options["exif"] = exif
    Image.new("L", (3, 3)).save(buffer, "PNG", pnginfo=info, **options)
    return buffer.getvalue()


def jpeg(exif="", comment=""):
    tags = Image.Exif()
    if exif:
        tags[0x010E] = exif
    buffer = io.BytesIO()
    Image.new("L", (3, 3)).save(buffer, "JPEG", exif=tags, comment=comment.encode())
    return buffer.getvalue()


def notebook(metadata=None, source="1", output=""):
    cell = nbformat.v4.new_code_cell(source)
    if output:
        plain = nbformat.v4.new_output("display_data", {"text/plain": output})
        cell.outputs.append(plain)
    made = nbformat.v4.new_notebook(cells=[cell], metadata=metadata or {})
    return nbformat.writes(made).encode()


def zipped(name, content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(name, content)
    return buffer.getvalue()


def b64(content, kind=""):
    text = base64.b64encode(content).decode()
    return f"<img src='data:{kind};base64,{text}'>".encode() if kind else text.encode()


def frame(column, value):
    return pd.DataFrame({"n": [1], column: [value], "x": [2]})


INVENTORY = b"# Sphinx inventory version 2\n# Project: x\n# Version: 1\n# zlib\n"
PLANTED = {
    "text.txt": f"a\nb {PTID}".encode(),
    "utf16.txt": f"see {PTID}".encode("utf-16"),
    "page.html": f"<p title='{PTID}'>x</p>".encode(),
    "escaped.html": html.escape(f"<{PTID}>").replace("_", "&#95;").encode(),
    "link.html": b"<a href='x?137%5FS%5F4203'>",
    "table.html": frame("RID", 4203).to_html().encode(),
    "uid_table.html": frame("IMAGEUID", 61234).to_html().encode(),
    "printed.txt": frame("RID", 4203).to_string().encode(),
    "table.csv": frame("RID", 4203).to_csv(index=False).encode(),
    "data.json": json.dumps({"a": [{"RID": 4203}]}).encode(),
    "columns.json": frame("RID", 4203).to_json().encode(),
    "escaped.json": b'{"a": "137\\u005fS\\u005f4203"}',
    "key.json": json.dumps({PTID: 1}).encode(),
    "metadata.ipynb": notebook({"papermill": {"parameters": {"subject": PTID}}}),
    "source.ipynb": notebook(source=f"show('{PTID}')"),
    "output.ipynb": notebook(output=frame("RID", 4203).to_string()),
    "script.js": f"const t = ['{T1}'];".encode(),
    "searchindex.js": f'Search.setIndex({{terms:{{"{PTID.lower()}":[4,7]}}}})'.encode(),
    "text.png": png(text=PTID),
    "ztext.png": png(text=f"RID {RID}", zip=True),
    "itext.png": png(itext=DATE),
    "zitext.png": png(itext=PTID, zip=True),
    "exif.png": png(exif=PTID),
    "tail.png": png() + PTID.encode(),
    "exif.jpg": jpeg(exif=PTID),
    "comment.jpg": jpeg(comment=f"scan of {DATE}"),
    "tail.jpg": jpeg() + PTID.encode(),
    "page.gz": gzip.compress(f"RID {RID}".encode()),
    "twice.gz": gzip.compress(gzip.compress(PTID.encode())),
    "some.npz": zipped("a.txt", PTID),
    "member.zip": zipped(f"{PTID}.txt", "x"),
    "objects.inv": INVENTORY + zlib.compress(PTID.encode()),
    "binary.bin": b"\0\1\2" + PTID.encode() + b"\0",
    "wide.bin": b"\1\0\0\0" + PTID.encode("utf-16-le") + b"\0\0",
    "image.html": b64(png(text=PTID), "image/png"),
    "words.html": b64(PTID.encode(), "text/plain"),
    "plain.html": f"<a href='data:text/plain,{PTID}'>".encode(),
    "packed.html": b64(gzip.compress(f"RID {RID}".encode()), "application/gzip"),
    "frame.html": b64(b64(png(text=PTID), "image/png"), "text/html"),
    "bare.json": json.dumps({"image/png": b64(png(text=PTID)).decode()}).encode(),
    "svg.svg": f"<svg><text>{DATE}</text></svg>".encode(),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_identifiers_are_found_and_not_repeated(ids, name):
    found = scan_bytes(PLANTED[name], ids, name, "", name)
    assert found, name
    for finding in found:
        for secret in (PTID, PTID.lower(), "137S4203", DATE, T1):
            assert secret not in " ".join((finding.file, finding.place, finding.kind))


def test_the_same_files_without_identifiers_are_clean(ids):
    """Each carrier with something harmless in it: a carrier alone is no finding."""
    harmless = {
        T1: "x.nii.gz",
        PTID: "999_S_9999",
        f"RID {RID}": "RID 5555",
        DATE: "2012-06-30",
        RID: "5555",
    }
    for name, content in PLANTED.items():
        if name.endswith((".html", ".txt", ".csv", ".json", ".ipynb", ".js", ".svg")):
            for secret, other in (*harmless.items(), (UID, "5")):
                content = content.replace(secret.encode(), other.encode())
                content = content.replace(secret.lower().encode(), other.lower().encode())
        if name in ("image.html", "words.html", "packed.html", "frame.html", "bare.json",
                    "escaped.html", "escaped.json", "link.html", "utf16.txt"):  # fmt: skip
            continue  # these hold it in a form that cannot be replaced in place
        if name.endswith((".html", ".txt", ".csv", ".json", ".ipynb", ".js", ".svg")):
            assert scan_bytes(content, ids, name, "", name) == [], name
    for content in (png(text="ok"), png(), jpeg(exif="ok"), gzip.compress(b"ok")):
        assert scan_bytes(content, ids, "a", "") == []


def test_what_cannot_be_unpacked_is_a_finding(ids):
    for content in (gzip.compress(b"x" * 9999)[:-20], b"PK\x03\x04 broken"):
        (finding,) = scan_bytes(content, ids, "a.gz", "")
        assert "not scanned" in finding.kind


# --- a whole site -----------------------------------------------------------------------


@pytest.fixture
def site(tmp_path):
    """A clean page with a picture, a notebook and a file that the page builder ships."""
    from importlib.util import find_spec
    from pathlib import Path

    root = tmp_path / "html"
    (root / "_static").mkdir(parents=True)
    (root / "index.html").write_text("<p>2,363 subjects, RID, PTID</p>")
    (root / "a.png").write_bytes(png(text="matplotlib"))
    (root / "a.ipynb").write_bytes(notebook({"memoir": {"cohort": "synthetic"}}))
    package = Path(find_spec("sphinx").submodule_search_locations[0])
    shipped = next(package.rglob("static/doctools.js"))
    (root / "_static" / "doctools.js").write_bytes(shipped.read_bytes())
    return root


def test_a_clean_site_passes(site, data, capsys):
    assert main([str(site), "--data", str(data)]) == 0
    assert "No identifier found" in capsys.readouterr().out
    assert main([str(site)]) == 0


def test_findings_fail_and_are_listed_without_the_identifier(site, data, capsys, tmp_path):
    (site / f"{PTID}_slices.png").write_bytes(png(text=f"RID {RID}"))
    (site / "_static" / "doctools.js").write_text(f"// {DATE}")  # no longer as shipped
    table = tmp_path / "found.csv"
    assert main([str(site), "--data", str(data), "--csv", str(table)]) == 1
    said = capsys.readouterr().err
    assert "••••••••••_slices.png: its name: PTID" in said
    assert "PNG tEXt" in said and "doctools.js: line 1, character 4: exam date" in said
    assert "3 findings" in said
    for secret in (PTID, RID, DATE):
        assert secret not in said + table.read_text()


def test_pages_of_real_data_need_the_download(site, data, capsys):
    (site / "b.ipynb").write_bytes(notebook({"memoir": {"cohort": "ADNI"}}))
    assert main([str(site)]) == 2
    assert "b.ipynb" in capsys.readouterr().err
    assert main([str(site), "--data", str(data)]) == 0


def test_wrong_arguments_are_named(site, tmp_path, capsys):
    for arguments in ([str(tmp_path / "none")], [str(site), "--data", str(tmp_path)]):
        with pytest.raises(SystemExit) as error:
            main(arguments)
        assert error.value.code == 2
    assert "ADNIMERGE.csv" in capsys.readouterr().err


def test_a_tree_without_a_manifest_has_file_names_too(tmp_path):
    image = tmp_path / "sub-ADNI137S4203" / "ses-M000" / "anat" / "sub-ADNI137S4203_T1w.nii.gz"
    image.parent.mkdir(parents=True)
    image.write_bytes(np.random.default_rng(0).bytes(9))
    pd.DataFrame({"RID": [RID], "PTID": [PTID], "EXAMDATE": [DATE]}).to_csv(
        tmp_path / "ADNIMERGE.csv", index=False
    )
    assert "sub-adni137s4203_t1w.nii.gz" in read_identifiers(tmp_path).names


def test_every_file_of_a_folder_is_read(site, ids):
    deep = site / "_images" / "deep"
    deep.mkdir(parents=True)
    (deep / "noext").write_text(PTID)
    assert [f.file for f in scan([site], ids)] == ["_images/deep/noext"]
