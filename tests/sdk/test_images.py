"""Every kind of picture a user may bring, and every file that is none."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sdk.errors import ImageError, MissingFileError
from sdk.images.image_io import list_images, load_image, square


@pytest.fixture
def colourful():
    image = Image.new("RGB", (40, 24), (200, 30, 30))
    image.paste((20, 20, 220), (0, 0, 20, 24))
    return image


def close(image, x, y, colour, tolerance=25):
    return np.abs(np.array(image.getpixel((x, y))) - colour).max() <= tolerance


def test_rgb_png_and_jpeg(colourful, tmp_path):
    for name in ("a.png", "a.jpg"):
        colourful.save(tmp_path / name)
        loaded = load_image(tmp_path / name)
        assert loaded.mode == "RGB"
        assert close(loaded, 35, 12, (200, 30, 30))


def test_cmyk(colourful, tmp_path):
    colourful.convert("CMYK").save(tmp_path / "a.jpg")
    assert close(load_image(tmp_path / "a.jpg"), 35, 12, (200, 30, 30), 60)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    loaded = np.asarray(load_image(tmp_path / "a.png"))
    assert loaded.max() == 255
    assert abs(int(loaded[16, 0, 0]) - 127) <= 3


def test_alpha_is_shown_on_white(tmp_path):
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png").getpixel((3, 3)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["P", "L", "LA", "1"])
def test_other_modes(colourful, tmp_path, mode):
    colourful.convert(mode).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png").mode == "RGB"


def test_exif_rotation_is_applied(colourful, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to view
    colourful.save(tmp_path / "a.jpg", exif=exif)
    assert load_image(tmp_path / "a.jpg").size == (24, 40)


def test_files_that_are_no_pictures(tmp_path):
    with pytest.raises(MissingFileError, match="no file"):
        load_image(tmp_path / "none.png")
    (tmp_path / "text.jpg").write_text("hello")
    with pytest.raises(ImageError, match="cannot be read"):
        load_image(tmp_path / "text.jpg")
    with pytest.raises(ImageError, match="is a folder"):
        load_image(tmp_path)
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    with pytest.raises(ImageError, match="only 1x1"):
        load_image(tmp_path / "dot.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    with pytest.raises(ImageError, match="cannot be read"):
        load_image(tmp_path / "cut.png")


def test_square_keeps_the_centre():
    image = Image.new("RGB", (60, 20), (0, 0, 0))
    image.paste((255, 255, 255), (20, 0, 40, 20))
    assert np.asarray(square(image, 20)).min() == 255
    assert square(image, 32).size == (32, 32)


def test_list_images(tmp_path):
    with pytest.raises(ImageError, match="no pictures"):
        list_images(tmp_path)
    with pytest.raises(MissingFileError, match="no folder"):
        list_images(tmp_path / "none")
