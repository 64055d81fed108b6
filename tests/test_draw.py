"""The pictures: what is drawn is what was found, nothing is cut, and every size and shape can be drawn."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image, ImageFont

from densemtmd.draw import (
    class_shares,
    colourise,
    confusion_figure,
    correlation_figure,
    curves_figure,
    figures,
    labels,
    overlay,
    save_indexed,
    sheet,
)
from densemtmd.draw.attempt import drawing
from densemtmd.draw.lettering import font_for, installed, short, width_of
from densemtmd.errors import UserError
from densemtmd.evaluation import report
from densemtmd.tasks import KeypointSet, Labelset, OutputSpace

RED, GREEN, BLUE = (200, 0, 0), (0, 180, 0), (0, 0, 220)
STREET = Labelset("street", ["car", "tree", "road"], [RED, GREEN, BLUE])
COARSE = Labelset("coarse", ["thing", "ground"], [(201, 103, 7), (9, 77, 99)])
SPACE = OutputSpace([STREET, COARSE])
SIZES = [(1, 1), (1, 50), (50, 1), (2, 3), (37, 23), (240, 320), (600, 97), (128, 1500)]


def photo(height, width, colour=(90, 100, 110)):
    return np.full((height, width, 3), colour, np.uint8)


def label_map(height, width, labels=3, seed=0):
    """Blobs of several pixels, so that they have insides."""
    coarse = np.random.default_rng(seed).integers(0, labels, (height // 40 + 1, width // 40 + 1)).astype(np.uint8)
    return np.kron(coarse, np.ones((40, 40), np.uint8))[:height, :width]


def colours_of(picture):
    """How often each colour occurs."""
    return {colour: count for count, colour in picture.getcolors(picture.width * picture.height)}


# ----------------------------------------------------------------------------------------------------------------------
# Label maps


@pytest.mark.parametrize("labels", [2, 3, 16, 33, 255])
def test_an_indexed_file_holds_the_ids_the_palette_and_void(tmp_path, labels):
    labelset = Labelset("many", [f"label {i}" for i in range(labels)])
    ids = np.random.default_rng(labels).integers(0, labels, (31, 17)).astype(np.uint8)
    ids[3:5] = 255
    save_indexed(tmp_path / "a.png", ids, labelset.palette)

    assert (tmp_path / "a.png").read_bytes()[24] == 8  # bit depth, in the header: small palettes are not packed
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "P"
        assert np.array_equal(np.asarray(picture), ids)
        shown = np.asarray(picture.convert("RGB"))
    for (y, x), class_id in np.ndenumerate(ids):
        assert tuple(shown[y, x]) == ((0, 0, 0) if class_id == 255 else labelset.palette[class_id])


def test_a_stray_class_id_is_refused_and_nothing_is_written(tmp_path):
    ids = np.array([[0, 3, 255]], np.uint8)
    with pytest.raises(UserError, match=r"class id 3, expected 0\.\.2 or 255"):
        save_indexed(tmp_path / "a.png", ids, STREET.palette)
    with pytest.raises(UserError, match="class id 3"):
        overlay(photo(1, 3), ids, STREET)
    with pytest.raises(UserError, match=r"\(H, W\) and type uint8, found \(1, 3\) and int64"):
        colourise(ids.astype(np.int64), STREET.palette)
    assert list(tmp_path.iterdir()) == []


def test_colours_against_a_loop():
    ids = label_map(90, 130)
    ids[10:20, 5:60] = 255
    expected = [[(0, 0, 0) if i == 255 else STREET.palette[i] for i in row] for row in ids.tolist()]
    assert np.array_equal(colourise(ids, STREET.palette), np.array(expected, np.uint8))


def test_shares_are_sorted_and_leave_specks_out():
    ids = np.zeros((100, 100), np.uint8)  # car
    ids[:70] = 2                          # road
    ids[99, 90:] = 255                    # 10 pixels: 0.1 %
    ids[98, 91:] = 1                      # 9 pixels: below
    shares = class_shares(ids, STREET)
    assert list(shares.items()) == [("road", 0.7), ("car", 0.2981), ("unlabelled", 0.001)]


# ----------------------------------------------------------------------------------------------------------------------
# Overlays


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_an_overlay_of_any_size_has_a_legend_that_is_not_cut(height, width):
    ids = label_map(height, width)
    picture = np.asarray(overlay(photo(height, width), ids, STREET, opacity=1))
    factor = max(1, math.ceil(480 / max(height, width)))
    top = height * factor
    assert picture.shape[0] > top + 20
    legend = picture[top:]
    for label, share in class_shares(ids, STREET).items():  # each swatch is there, in the label's own colour
        assert share > 0
        swatch = (legend == STREET.palette[STREET.labels.index(label)]).all(2)
        assert swatch.sum() >= 100, label
    frame = [legend[-3:], legend[:, -3:], legend[:3, :3], legend[:, :3]]
    assert all((part == 255).all() for part in frame), "something is drawn up to the edge of the legend"


@pytest.mark.parametrize(("height", "width"), [(1000, 1300), (1001, 1299), (700, 2000)])
def test_the_overlay_of_a_very_large_photo_is_smaller(height, width, monkeypatch):
    """And made a part at a time: of a photo whose left half is dark, under a map of two labels, one above the other."""
    monkeypatch.setattr(labels, "LARGEST", 160_000)
    monkeypatch.setattr(labels, "PART", 50_000)
    image, ids = photo(height, width, (200, 200, 200)), np.zeros((height, width), np.uint8)
    image[:, : width // 2] = 100
    ids[height // 2 :] = 1
    whole = overlay(image, ids, STREET, opacity=0.5)
    factor = math.ceil(math.sqrt(height * width / 160_000))
    small = np.asarray(whole)[: -(-height // factor), : -(-width // factor)].astype(int)
    assert whole.width < width and (small.shape[0] * small.shape[1]) < 165_000
    for row, colour in ((0.25, RED), (0.75, GREEN)):
        for column, light in ((0.25, 100), (0.75, 200)):
            found = small[int(row * small.shape[0]), int(column * small.shape[1])]
            assert np.abs(found - (np.array(colour) + light) / 2).max() <= 2
    assert class_shares(ids, STREET) == pytest.approx({"car": 0.5, "tree": 0.5}, abs=0.001)
    several = np.asarray(sheet(image, {"street": ids, "coarse": ids}, SPACE))
    assert several.shape[0] * several.shape[1] < 2_500_000


@pytest.mark.parametrize("opacity", [0, 0.5, 1])
def test_an_overlay_blends_inside_the_classes(opacity):
    ids = label_map(500, 600)
    image = np.random.default_rng(1).integers(0, 256, (500, 600, 3)).astype(np.uint8)
    painted = np.asarray(overlay(image, ids, STREET, opacity))[:500, :600].astype(float)
    inside = np.zeros(ids.shape, bool)
    inside[1:-1, 1:-1] = True
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            inside &= np.roll(ids, (dy, dx), (0, 1)) == ids
    expected = (1 - opacity) * image + opacity * colourise(ids, STREET.palette)
    assert np.abs(painted - expected)[inside].max() <= 1
    if opacity == 1:  # and there are light lines where classes meet
        assert painted[~inside].mean() > expected[~inside].mean() + 30


@pytest.mark.parametrize("turned", [False, True])
def test_a_line_is_where_two_classes_meet_and_nowhere_else(turned):
    ids = np.zeros((480, 480), np.uint8)
    ids[:, 200:] = 2
    ids = ids.T if turned else ids
    painted = np.asarray(overlay(photo(480, 480), np.ascontiguousarray(ids), STREET, opacity=1))[:480, :480]
    differs = (painted != colourise(ids, STREET.palette)).any(2)
    expected = np.zeros((480, 480), bool)
    expected[:, 199] = True
    assert np.array_equal(differs, expected.T if turned else expected)


def test_enlarging_invents_no_class():
    ids = np.repeat(np.array([[0, 0, 2, 2]], np.uint8), 3, axis=0)  # halfway between 0 and 2 lies 1, a tree
    for picture in (overlay(photo(3, 4), ids, STREET, opacity=1), sheet(photo(3, 4), {"street": ids}, SPACE, opacity=1)):
        assert {RED, BLUE} <= colours_of(picture).keys() and GREEN not in colours_of(picture)


def test_lines_fade_where_a_map_is_as_grainy_as_noise():
    ids = np.random.default_rng(0).integers(0, 3, (500, 600)).astype(np.uint8)
    painted = np.asarray(overlay(photo(500, 600), ids, STREET, opacity=1))[:500, :600]
    assert np.array_equal(painted, colourise(ids, STREET.palette))


def test_unlabelled_pixels_are_darkened_and_in_the_legend():
    ids = np.zeros((500, 500), np.uint8)
    ids[200:300, 200:300] = 255
    picture = np.asarray(overlay(photo(500, 500, (100, 100, 100)), ids, STREET, opacity=0.5))
    assert tuple(picture[250, 250]) == (50, 50, 50)
    assert (picture[500:] == 0).all(2).sum() > 50


def test_a_speck_is_painted_but_not_in_the_legend():
    ids = np.zeros((500, 500), np.uint8)
    ids[100:110, 100:110] = 1  # 0.04 %
    picture = overlay(photo(500, 500), ids, STREET, opacity=1)
    assert GREEN in colours_of(picture.crop((0, 0, 500, 500)))
    assert GREEN not in colours_of(picture.crop((0, 500, *picture.size)))


def test_a_long_name_widens_the_picture():
    name = "a label whose name somebody took for a place to explain at length what it means " * 3
    picture = overlay(photo(480, 480), np.zeros((480, 480), np.uint8), Labelset("long", [name, "other"]))
    assert picture.width > ImageFont.load_default(size=13).getlength(short(name))
    longer = overlay(photo(480, 480), np.zeros((480, 480), np.uint8), Labelset("long", ["x" * 10_000, "other"]))
    assert longer.width < 1000


def test_names_beyond_ascii_are_not_drawn_as_boxes():
    legends = [
        np.asarray(overlay(photo(480, 480), np.zeros((480, 480), np.uint8), Labelset("x", [name, "other"])))
        for name in ("ßß", "üü", "θθ")
    ]
    assert not any(np.array_equal(a, b) for a, b in pairwise(legends))


def test_the_font_grows_with_the_photo():
    def swatch(height, width):
        picture = np.asarray(overlay(photo(height, width), np.zeros((height, width), np.uint8), STREET, opacity=0))
        return math.sqrt((picture[height:] == RED).all(2).sum())

    assert 2.5 < swatch(1500, 2000) / swatch(480, 640) < 4


def test_a_label_map_of_another_size_is_refused():
    with pytest.raises(UserError, match=r"\(4, 4\), expected the photo's, \(4, 5\)"):
        overlay(photo(4, 5), np.zeros((4, 4), np.uint8), STREET)


# ----------------------------------------------------------------------------------------------------------------------
# Sheets


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_sheet_shows_the_photo_and_every_answer(height, width):
    colour = (90, 130, 170)
    answers = {"coarse": np.ones((height, width), np.uint8), "street": np.zeros((height, width), np.uint8)}
    picture = sheet(photo(height, width, colour), answers, SPACE, opacity=1)
    counts = colours_of(picture)
    factor = min(math.sqrt(220_000 / (height * width)), 1000 / max(height, width))
    area = max(1, round(height * factor)) * max(1, round(width * factor))
    assert counts[colour] == area
    for painted in (RED, (9, 77, 99)):
        assert counts[painted] > area  # the panel, and a swatch
    assert GREEN not in counts and (201, 103, 7) not in counts
    frame = np.asarray(picture)
    assert all((part == 255).all() for part in (frame[:3], frame[-3:], frame[:, :3], frame[:, -3:]))


def test_a_name_has_one_colour_in_all_panels_and_no_sheet_an_empty_quarter():
    space = OutputSpace([Labelset("a", ["car", "road"], [RED, GREEN]), Labelset("b", ["road", "Car"], [BLUE, (250, 240, 10)])])
    answers = {"a": np.zeros((100, 100), np.uint8), "b": np.ones((100, 100), np.uint8)}
    counts = colours_of(sheet(photo(100, 100), answers, space, opacity=1))
    assert counts[RED] > 2 * 200_000 and (250, 240, 10) not in counts
    for panel in ((320, 128), (100, 100), (60, 200), (400, 300)):
        for count in range(2, 40):
            columns = labels._columns(count, panel)
            assert 4 * (-(-count // columns) * columns - count) < -(-count // columns) * columns


@pytest.mark.parametrize("size", [(90, 120), (1200, 1600)])
def test_boundaries_are_smooth_where_a_map_is_drawn_at_another_size(size):
    """A disc: its outline is a soft line of one colour, and inside and outside are what they are."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    ids = ((rows - size[0] / 2) ** 2 + (columns - size[1] / 2) ** 2 < (size[0] / 3) ** 2).astype(np.uint8)
    drawn = np.asarray(labels._painted_at((640, 480), photo(*size), ids, STREET, 1.0))
    across, along = drawn[240], drawn[:, 320]
    for line, ends in ((across, (160, 480)), (along, (80, 400))):  # to within a pixel of the map
        changes = np.flatnonzero((line[1:] != line[:-1]).any(1))
        assert len(changes) <= 8 and all(min(abs(n - end) for end in ends) <= max(4, 640 / size[1] + 1) for n in changes)
    soft = [tuple(colour) for colour in drawn.reshape(-1, 3).tolist() if tuple(colour) not in (RED, GREEN)]
    assert 500 < len(soft) < 6000 and len(set(soft)) > 8
    assert set(np.unique(labels._smooth(ids, (640, 480)))) == {0, 1}
    ids[:, 7] = 2  # a line of single pixels is there still, where a map is enlarged
    assert size[1] > 640 or (labels._smooth(ids, (640, 480)) == 2).any(1).all()


def test_columns_can_be_chosen_and_otherwise_fit_the_photos_shape():
    many = OutputSpace([Labelset(f"set{i}", ["a", "b"]) for i in range(7)])

    def shape(height, width, columns=None):
        answers = {name: np.zeros((height, width), np.uint8) for name in many.names}
        return sheet(photo(height, width), answers, many, columns).size

    wide, high = shape(100, 130, columns=8), shape(100, 130, columns=1)
    assert wide[0] > 4 * wide[1] and high[1] > 4 * high[0]
    for height, width in ((128, 320), (375, 1242), (240, 320), (320, 240), (640, 240)):
        w, h = shape(height, width)
        assert 0.8 < w / h < 3, (height, width)


def test_a_long_name_widens_a_sheet():
    name = "a label whose name explains at length what it means " * 3
    space = OutputSpace([Labelset("long", [name, "other"]), Labelset("t" * 200, ["a", "b"])])
    answers = {task: np.zeros((100, 100), np.uint8) for task in space.names}
    picture = sheet(photo(100, 100), answers, space, columns=1)
    assert picture.width > ImageFont.load_default(size=13).getlength(short("t" * 200))
    assert (np.asarray(picture)[:, -3:] == 255).all()
    picture = sheet(photo(100, 100), {"long": answers["long"]}, space, columns=1)
    assert picture.width > ImageFont.load_default(size=13).getlength(short(name))
    assert (np.asarray(picture)[:, -3:] == 255).all()


def test_an_answer_of_no_labelset_is_refused():
    with pytest.raises(UserError, match=r"unknown labelset 'stret'.*did you mean 'street'"):
        sheet(photo(4, 4), {"stret": np.zeros((4, 4), np.uint8)}, SPACE)


# ----------------------------------------------------------------------------------------------------------------------
# Figures


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved, to look into."""
    seen = []
    save = figures._save_figure
    monkeypatch.setattr(figures, "_save_figure", lambda figure, path: (seen.append(figure), save(figure, path)))
    return seen


@pytest.mark.parametrize(("labels", "least"), [(2, 0.5), (8, 0.5), (33, 0.5), (55, 10)])
def test_a_confusion_figure_shows_row_percents(tmp_path, drawn, labels, least):
    rng = np.random.default_rng(labels)
    matrix = rng.integers(0, 9, (labels, labels)) ** 4
    matrix[labels - 1] = 0  # never occurs
    names = [f"label {i}" for i in range(labels)]
    confusion_figure(matrix, Labelset("some", names), tmp_path / "c.png")

    axes = drawn[0].axes[0]
    percents = 100 * axes.collections[0].get_array()
    texts = {(t.get_position(), t.get_text()) for t in axes.texts}
    for row in range(labels):
        for column in range(labels):
            expected = 100 * matrix[row, column] / matrix[row].sum() if matrix[row].sum() else 0
            assert percents[row, column] == pytest.approx(expected)
            assert (((column, row), f"{expected:.0f}") in texts) == (expected >= least)
    union = matrix[0].sum() + matrix[:, 0].sum() - matrix[0, 0]
    assert {f"{100 * matrix[0, 0] / union:.1f}", "none", "–"} <= {text for _, text in texts}
    assert [t.get_text() for t in axes.get_yticklabels()] == names
    with Image.open(tmp_path / "c.png") as picture:
        numbers = [t for t in axes.texts if t.get_text().isdecimal()]
        boxes = [t.get_window_extent() for t in numbers]
        cell = axes.get_window_extent().width / labels
        assert all(box.width < cell and box.height < cell for box in boxes)
        assert picture.width >= drawn[0].get_size_inches()[0] * 0.7 * 150


def test_a_confusion_figure_without_a_pixel_and_of_a_wrong_shape(tmp_path):
    confusion_figure(np.zeros((3, 3), int), STREET, tmp_path / "empty.svg")
    assert (tmp_path / "empty.svg").read_text().lstrip().startswith("<?xml")
    with pytest.raises(UserError, match=r"'street' has the shape \(2, 2\), expected \(3, 3\)"):
        confusion_figure(np.zeros((2, 2), int), STREET, tmp_path / "wrong.png")
    assert not (tmp_path / "wrong.png").exists()


def history(datasets, epochs):
    rng = np.random.default_rng(0)
    records = []
    for epoch in range(epochs):
        matrices = {name: rng.integers(0, 50, (3, 3)) for name in datasets}
        scored = report(matrices, dict.fromkeys(datasets, STREET))
        records.append({"epoch": epoch, "loss": None if epoch == 0 else 1 / epoch, "scores": scored})
    return records


def test_curves_show_the_history(tmp_path, drawn):
    records = history(["he", "xu"], 5)
    records[2]["scores"]["datasets"]["xu"]["iou"] = None  # nothing to score: a gap, not a crash
    curves_figure(records, tmp_path / "curves.png")

    loss, *scores = drawn[0].axes
    assert np.allclose(loss.lines[0].get_ydata(), [np.nan, 1, 1 / 2, 1 / 3, 1 / 4], equal_nan=True)
    for axes, key in zip(scores, ("global", "average", "iou"), strict=True):
        lines = {line.get_label(): line for line in axes.lines}
        assert list(lines) == ["he", "xu", "all together"]
        assert list(lines["he"].get_xdata()) == [0, 1, 2, 3, 4]
        assert list(lines["he"].get_ydata()) == [r["scores"]["datasets"]["he"][key] for r in records]
        assert list(lines["all together"].get_ydata()) == [r["scores"]["pooled"][key] for r in records]
    assert np.isnan(scores[2].lines[1].get_ydata()[2])
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 1200


def test_curves_of_one_dataset_have_no_line_for_all_and_an_empty_history_is_refused(tmp_path, drawn):
    curves_figure(history(["he"], 1), tmp_path / "one.png")
    assert [line.get_label() for line in drawn[0].axes[1].lines] == ["he"]
    with pytest.raises(UserError, match="was not validated once"):
        curves_figure([], tmp_path / "none.png")


def test_no_field_of_the_curves_is_empty_and_very_many_datasets_are_not_all_named(tmp_path, drawn):
    curves_figure(history(["he"], 2), tmp_path / "four.png")
    mm = {"pooled": {"mm": 3.0, "px": 2.0}, "datasets": {"nyu": {"mm": 3.0, "px": 2.0}}}
    curves_figure([{"epoch": 1, "loss": 1.0, "scores": mm}], tmp_path / "three.png")
    for figure in drawn:
        fields = figure.axes[0].get_gridspec()
        assert len(figure.axes) == fields.nrows * fields.ncols
    curves_figure(history([f"_dataset {i}" for i in range(70)], 1), tmp_path / "many.png")
    named = [text.get_text() for text in drawn[2].legends[0].get_texts()]
    assert len(named) == figures.NAMED and named[0] == " _dataset 0" and named[-1] == "all together (41 more)"
    with Image.open(tmp_path / "many.png") as picture:
        assert picture.width < 2500


def test_keypoints_have_no_sheet():
    with pytest.raises(UserError, match="keypoints"):
        sheet(photo(4, 4), {"nyu": np.zeros((4, 4), np.uint8)}, OutputSpace([KeypointSet("nyu", ["palm"])]))


# ----------------------------------------------------------------------------------------------------------------------
# Figures of comparisons


@pytest.mark.parametrize(("rows", "datasets"), [(1, 1), (2, 4), (6, 9), (12, 3)])
def test_differences_are_all_there_and_do_not_overlap(tmp_path, monkeypatch, rows, datasets):
    random = np.random.default_rng(rows)
    values = random.normal(0, 4, (rows, datasets)).tolist()
    names = [f"strategy {r}{', which is called so' * (r > 8)}" for r in range(rows)]
    found = {name: {f"dataset {d}": (v, v - 2, v + 1) for d, v in enumerate(row)} for name, row in zip(names, values, strict=True)}
    drawn, save = [], figures._save_figure
    monkeypatch.setattr(figures, "_save_figure", lambda figure, path: (drawn.append(figure), save(figure, path)))
    figures.differences_figure(found, tmp_path / "figure.png", "a table", "nf")
    (axes,) = drawn[0].axes
    dots = {line.get_label(): line for line in axes.lines if line.get_label() in found}
    assert list(dots) == [*found]
    for name, line in dots.items():
        assert line.get_xdata() == pytest.approx([value for value, _, _ in found[name].values()])
    heights = sorted(y for line in dots.values() for y in line.get_ydata())
    assert min(b - a for a, b in pairwise(heights)) > 0.13 if len(heights) > 1 else heights
    segments = [segment for lines in axes.collections for segment in lines.get_segments()]
    assert len(segments) == rows * datasets and all(b[0] - a[0] == pytest.approx(3) for a, b in segments)
    texts = [*axes.get_yticklabels(), *axes.texts, *axes.get_legend().get_texts()]
    boxes = [text.get_window_extent() for text in texts]
    for i, one in enumerate(boxes):
        assert not any(one.overlaps(other) for other in boxes[i + 1 :]), texts[i].get_text()
    assert len(dots) == len({(line.get_color(), line.get_marker()) for line in dots.values()})
    assert axes.get_legend().get_window_extent().x1 < 1.05 * axes.get_window_extent().x1
    worse, better = (next(text for text in axes.texts if word in text.get_text()).get_window_extent() for word in ("worse", "better"))
    assert worse.x1 < axes.transData.transform((0, 0))[0] < better.x0


def test_no_difference_to_draw(tmp_path):
    with pytest.raises(UserError, match="nothing to draw"):
        figures.differences_figure({}, tmp_path / "figure.png", "a table", "nf")


def test_the_correlation_figure_holds_every_label_and_refuses_other_sizes(tmp_path):
    space = OutputSpace([Labelset("one", ["sky", "road", "never"]), Labelset("two", ["sky", "everything else"])])
    matrix = np.random.default_rng(0).random((5, 5))
    matrix[2] = np.nan
    correlation_figure(matrix, space, tmp_path / "figure.svg")
    text = (tmp_path / "figure.svg").read_text()
    assert all(text.count(f"<!-- {label} -->") == 2 for label in ("road", "never", "everything else", "one", "two"))
    with pytest.raises(UserError, match=r"\(4, 4\).*\(5, 5\)"):
        correlation_figure(matrix[:4, :4], space, tmp_path / "figure.png")


# ----------------------------------------------------------------------------------------------------------------------
# Names, bounds, and what fails


def test_a_name_is_shortened_in_its_middle_to_one_line():
    assert short("car") == "car" and short("a\nb") == "a\\nb"
    for name in ("x" * 10_000, "自動車" * 99, "ends alike but for this: 1" + "y" * 99 + "2"):
        kept = short(name, 20)
        assert 18 <= width_of(kept) <= 20 and kept[:4] == name[:4] and kept[-4:] == name[-4:] and kept.count("…") == 1


def test_every_letter_has_a_font_or_a_placeholder_and_nothing_is_said(tmp_path, drawn, recwarn, caplog):
    names = ["plain", "$\\frac", "straße", "سيارة", "θ", "自動車", "รถยนต์", "कार", "x" * 10_000]
    confusion_figure(np.eye(9, dtype=int), Labelset("Straßen $x$", names), tmp_path / "c.png")
    correlation_figure(np.eye(9), OutputSpace([Labelset("a", names[:4]), Labelset("二", names[4:])]), tmp_path / "k.png")
    assert not recwarn.list and not caplog.records
    assert [text.get_text() for text in drawn[0].axes[0].get_yticklabels()] == [*names[:8], short(names[8])]
    for file in ("c.png", "k.png"):
        with Image.open(tmp_path / file) as picture:
            assert picture.width < 2000 and picture.height < 1500
    assert font_for("car straße سيارة").name == "DejaVuSans.ttf"
    if cjk := [file for family, file in installed().items() if "CJK" in family]:
        assert font_for("自動車") == cjk[0]
        boxes = [np.asarray(overlay(photo(480, 480), np.zeros((480, 480), np.uint8), Labelset("x", [n, "b"]))) for n in ("自動", "自車")]
        assert not np.array_equal(*boxes)


BOUNDED = """
import resource, sys
import numpy as np
from densemtmd.draw import confusion_figure, correlation_figure
from densemtmd.tasks import Labelset, OutputSpace
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
random, before = np.random.default_rng(0), peak()
many = Labelset("many", [f"{i} " + "a name that goes on and on " * 9 for i in range(255)])
confusion_figure(random.integers(0, 99, (255, 255)), many, sys.argv[1] + "/confusion.png")
space = OutputSpace([Labelset(f"set {i}", [f"label {j}" for j in range(125)]) for i in range(8)])
correlation_figure(random.random((1000, 1000)), space, sys.argv[1] + "/correlation.png")
print(peak() - before)
"""


def test_matrices_of_255_and_1000_labels_are_pictures_of_a_size_that_one_can_open(tmp_path):
    told = subprocess.run([sys.executable, "-c", BOUNDED, str(tmp_path)], capture_output=True, text=True, check=True)
    assert float(told.stdout) < 600, "megabytes"
    for name in ("confusion", "correlation"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert 2000 < picture.width < 6000 and 2000 < picture.height < 6000


def test_a_learning_curve_that_goes_on_where_another_ends_does_not_hide_it(tmp_path):
    """As shared context goes on where joint training ends."""
    first = [[(1000 * 2**n, 10.0 * n) for n in range(4)]]
    longer = [[*first[0], (16_000, 32.0), (32_000, 34.0)]]
    figures.budget_figure({"he": {"jt": first, "jtsc": longer}}, tmp_path / "f.png", "street", "IoU, validation, %")
    image = np.asarray(Image.open(tmp_path / "f.png").convert("RGB")).astype(int)
    field = image[:, : image.shape[1] * 2 // 3]  # without the legend
    seen = [(abs(field - colour).max(-1) < 12).sum() for colour in ((31, 119, 180), (255, 127, 14))]  # tab10's first two
    assert min(seen) > 200


def test_a_figure_of_any_size_has_a_bounded_number_of_pixels(tmp_path):
    from matplotlib.figure import Figure

    for size in ((100, 100), (2000, 1), (3, 900)):
        figures._save_figure(Figure(figsize=size, dpi=150), tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as picture:
            assert picture.width * picture.height < 1.1 * figures.MOST_PIXELS and max(picture.size) < 33_000


def test_many_labels_stand_in_the_order_of_their_partners(tmp_path, drawn):
    """Of two labelsets whose labels are the same ones, dealt out anew."""
    dealt = np.random.default_rng(0).permutation(60)
    space = OutputSpace([Labelset("one", [f"label {i}" for i in range(60)]), Labelset("two", [f"label {i}" for i in dealt])])
    matrix = np.eye(120)
    matrix[60 + np.arange(60), dealt] = matrix[dealt, 60 + np.arange(60)] = 0.9
    correlation_figure(matrix, space, tmp_path / "k.png")
    axes = drawn[0].axes[0]
    assert np.allclose(np.diagonal(axes.collections[0].get_array(), 60), 0.9)
    assert [text.get_text() for text in axes.get_yticklabels()] == [f"label {i}" for i in range(60)] * 2


@pytest.mark.parametrize("error", [MemoryError("Unable to allocate 9 GiB"), UserError("a.png cannot be written"), ValueError("two\nlines")])
def test_what_cannot_be_drawn_is_told_in_a_line(error, capsys):
    with drawing("figures/a.png"):
        raise error
    told = capsys.readouterr().err
    assert told.startswith("note: figures/a.png could not be drawn, all else goes on: ") and told.count("\n") == 1
    with pytest.raises(KeyboardInterrupt), drawing("figures/a.png"):
        raise KeyboardInterrupt
