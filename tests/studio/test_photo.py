"""Crops and painted masks."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sdk.studio import photo


@pytest.mark.parametrize(
    ("size", "place", "box"),
    [
        ((200, 100), (50, 50, 100), (50, 0, 150, 100)),
        ((200, 100), (0, 0, 100), (0, 0, 100, 100)),
        ((200, 100), (100, 100, 50), (150, 50, 200, 100)),
        ((100, 200), (50, 0, 100), (0, 0, 100, 100)),
        ((3, 1), (50, 50, 20), (1, 0, 2, 1)),
    ],
)
def test_the_square_stays_inside(size, place, box):
    assert photo.crop_box(size, *place) == box


def test_a_click_moves_the_middle_there_as_far_as_it_goes():
    across, down = photo.centred_at((200, 100), (120, 10), 100)
    assert photo.crop_box((200, 100), across, down, 100) == (70, 0, 170, 100)
    assert photo.centred_at((200, 100), (0, 0), 50) == (0, 0)
    assert photo.centred_at((100, 100), (3, 3), 100) == (50, 50)


@pytest.mark.parametrize("size", [(64, 48), (3000, 2000), (1, 1), (900, 20)])
def test_what_is_left_out_is_dark_and_the_rest_as_it_was(size):
    white = Image.new("RGB", size, "white")
    box = photo.crop_box(size, 0, 0, 50)
    shown = photo.outlined(white, box)
    factor = photo.scale(size)
    assert shown.size == tuple(max(1, round(length * factor)) for length in size)
    assert max(shown.size) <= 900 or min(size) == 1
    middle = round((box[0] + box[2]) / 2 * factor), round((box[1] + box[3]) / 2 * factor)
    assert shown.getpixel(middle) == (255, 255, 255)
    if size[0] > 2:
        assert max(shown.getpixel((shown.width - 1, shown.height - 1))) < 120


def test_what_is_painted_comes_back_at_the_size_of_the_crop():
    mask = Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 48, 48))
    crop = Image.new("RGB", (64, 64), "green")
    shown = photo.to_paint_on(crop, mask, photo.COLOURS[0])
    assert shown["background"].size == shown["layers"][0].size == (photo.EDITED, photo.EDITED)
    back = photo.painted(shown, crop.size)
    assert np.abs(np.asarray(back, int) - np.asarray(mask, int)).mean() < 3
    stroke = Image.new("RGBA", (photo.EDITED, photo.EDITED))
    stroke.paste((255, 0, 0, 200), (0, 0, 128, 128))
    more = photo.painted(shown | {"layers": [*shown["layers"], stroke]}, crop.size)
    assert more.getpixel((3, 3)) == more.getpixel((30, 30)) == 255
    assert more.getpixel((60, 3)) == 0


@pytest.mark.parametrize(
    "edited", [None, {}, {"layers": []}, {"layers": [None]}, {"layers": [Image.new("RGBA", (9, 9))]}]
)
def test_nothing_painted_is_no_mask(edited):
    assert photo.painted(edited, (64, 64)) is None


def test_a_huge_crop_is_kept_smaller():
    assert photo.cropped(Image.new("RGB", (5000, 3000)), (0, 0, 3000, 3000)).size == (2048, 2048)
    assert photo.cropped(Image.new("RGB", (60, 30)), (0, 0, 30, 30)).size == (30, 30)
