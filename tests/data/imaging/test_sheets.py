"""Contact sheets: every image at its place, captions wrapped, the file marked synthetic."""

import numpy as np
import pytest

from radpref.data.imaging import sheets
from radpref.data.imaging.images import is_marked_synthetic
from radpref.data.imaging.sheets import GAP, TEXT_HEIGHT, SheetRow


def test_sheet_has_its_places_and_its_mark(tmp_path):
    group = np.full((2, 16, 16), 200, np.uint8)
    rows = [sheets.SheetRow("one", (group, group[:1])), sheets.SheetRow("two", (group, group[:1]))]
    page = sheets.contact_sheet(rows, ("left", "right"))
    assert page.shape == (18 + 2 * (18 + 16), 2 * 16 + 6 + 16)
    assert (page[36:52, :32] == 200).all()
    sheets.save_sheet(tmp_path / "s.png", rows)
    assert is_marked_synthetic(tmp_path / "s.png")


def test_rows_stand_in_columns_read_like_text_and_are_enlarged():
    rows = [SheetRow(str(level), (np.full((1, 16, 16), level, np.uint8),)) for level in (50, 100, 150)]
    page = sheets.contact_sheet(rows, columns=2, scale=3)
    assert page.shape == (2 * (TEXT_HEIGHT + 48), 2 * 48 + GAP)
    for row, column, level in ((0, 0, 50), (0, 1, 100), (1, 0, 150)):
        top, left = row * (TEXT_HEIGHT + 48) + TEXT_HEIGHT, column * (48 + GAP)
        assert (page[top : top + 48, left : left + 48] == level).all()


@pytest.mark.parametrize(("words", "n_lines"), [(1, 1), (4, 2), (60, sheets.MAX_LINES)])
def test_long_captions_are_wrapped_and_at_last_cut(words, n_lines):
    row = SheetRow(" ".join(["effusion"] * words), (np.zeros((1, 32, 128), np.uint8),))
    assert sheets.contact_sheet([row]).shape == (n_lines * TEXT_HEIGHT + 32, 128)


def test_a_mask_picture_keeps_its_side_and_shows_later_structures_on_top():
    mask = np.zeros((2, 4, 4), bool)
    mask[0, :, :2], mask[1, :2, :1] = True, True
    picture = sheets.mask_picture(mask, 8, 8)
    assert picture.shape == (8, 8)
    assert (picture[:, 4:] == 0).all()
    assert (picture[:4, :2] == 230).all()
    assert (picture[4:, :4] == 90).all()
