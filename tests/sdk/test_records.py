"""What drawn pictures say of themselves."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from PIL import Image, PngImagePlugin

from sdk.errors import ImageError
from sdk.images.record import KEY, PictureRecord, png_bytes, read_record, record_of, remember

RECORD = PictureRecord(
    prompt="a <new1> cat & a \u00fc \x0b\ud800", seed=7, steps=20, scheduler="DDIM", guidance_scale=6.0, base="bundled",
    negative_prompt="dog", eta=1.0, pack="ab" * 32, concepts=("<new1> cat",), licence="CC0 <b>", version="1.0",
)  # fmt: skip


def picture(record=None):
    image = Image.new("RGB", (32, 16), "red")
    if record is not None:
        remember(image, record)
    return image


def test_a_record_goes_with_the_file(tmp_path):
    record = replace(RECORD, prompt="a <new1> cat & a \u00fc")
    (tmp_path / "p.png").write_bytes(png_bytes(picture(record)))
    assert read_record(tmp_path / "p.png") == record
    with Image.open(tmp_path / "p.png") as opened:
        assert opened.info["parameters"].splitlines() == [
            "a <new1> cat & a \u00fc",
            "Negative prompt: dog",
            "Steps: 20, Sampler: DDIM, CFG scale: 6.0, Seed: 7, Model: bundled, Pack: abababababababab",
        ]
        packet = opened.info["XML:com.adobe.xmp"]
        root = ElementTree.fromstring(packet[packet.index("<x:") : packet.rindex("<?")])
        kind = root.find(".//{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType")
        assert kind.text == "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
        texts = [e.text for e in root.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}li")]
        assert texts == [record.prompt, "CC0 <b>"]
    edited = png_bytes(picture(replace(record, edited=True)))
    assert b"compositeWithTrainedAlgorithmicMedia" in edited


def test_what_is_seldom_used_is_written_only_then(tmp_path):
    """So that earlier versions, which refuse names that they do not know, read all other pictures."""
    plain, both = picture(RECORD), picture(replace(RECORD, guidance_rescale=0.7, clip_skip=1))
    assert not {"guidance_rescale", "clip_skip"} & json.loads(plain.info[KEY]).keys()
    (tmp_path / "p.png").write_bytes(png_bytes(both))
    assert read_record(tmp_path / "p.png").guidance_rescale == 0.7
    with Image.open(tmp_path / "p.png") as opened:
        assert "CFG rescale: 0.7, Clip skip: 2, Model: bundled" in opened.info["parameters"]


def test_any_prompt_can_be_kept(tmp_path):
    """Control characters and halves of pairs are no XML, and no reason to lose a picture."""
    (tmp_path / "p.png").write_bytes(png_bytes(picture(RECORD)))
    assert read_record(tmp_path / "p.png").seed == 7


def test_pictures_of_others_have_no_record(tmp_path):
    assert record_of(picture()) is None
    (tmp_path / "plain.png").write_bytes(png_bytes(picture()))
    assert read_record(tmp_path / "plain.png") is None
    for text in (
        "{", "[]", "5", '{"prompt": 5}', '{"prompt": "a"}', '{"other": 1}', "[" * 100_000, '{"seed": true}',
        *(
            f'{{"prompt": "a", "seed": 1, "steps": 2, "scheduler": "", "guidance_scale": 1, "base": "", {more}}}'
            for more in ('"clip_skip": -5', '"guidance_rescale": NaN', '"guidance_rescale": 2')
        ),
        '{"prompt": "a", "seed": 1.5, "steps": 2, "scheduler": "", "guidance_scale": 1, "base": ""}',
    ):  # fmt: skip
        entries = PngImagePlugin.PngInfo()
        entries.add_text(KEY, text)
        picture().save(tmp_path / "x.png", pnginfo=entries)
        assert read_record(tmp_path / "x.png") is None, text[:50]
    (tmp_path / "text.png").write_text("%!PS-Adobe-3.0 EPSF-3.0")
    picture().save(tmp_path / "photo.jpg")
    for name in ("text.png", "photo.jpg"):
        with pytest.raises(ImageError, match="cannot be read as a PNG"):
            read_record(tmp_path / name)
