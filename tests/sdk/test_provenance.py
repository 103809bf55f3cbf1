"""What goes along with packs and pictures: how they were made, and what may be done with them."""

from __future__ import annotations

import json

import pytest
from safetensors import safe_open

from sdk import Concept, ConceptPack
from sdk.combine import merge, route
from sdk.commands.main import main
from sdk.errors import InputError
from sdk.images.record import read_record, record_of

RIGHTS = {"licence": "CC-BY-4.0", "consent": "the cat's owner agreed"}


@pytest.fixture
def pack(personalizer, picture, quick, tmp_path):
    return personalizer.fit(
        picture, ["cat"], config=quick.with_changes(steps=1), output_dir=tmp_path / "pack", **RIGHTS
    )


def test_rights_go_along(personalizer, picture, quick, pack, tmp_path):
    read = ConceptPack.from_pretrained(tmp_path / "pack")
    stated = read.statement
    assert (stated.content, stated.licence, stated.consent) == (pack.content_hash(), *RIGHTS.values())
    other = personalizer.fit(picture, ["dog"], config=quick.with_changes(steps=1), licence="CC0-1.0")
    for combined in (merge(personalizer, [read, other]), route([read, other])):
        assert combined.statement.licence == "CC-BY-4.0; CC0-1.0"
        assert combined.statement.consent == "the cat's owner agreed; not stated for every part"
    from sdk.deploy.adapters import read_adapter

    assert read_adapter(read.export_adapter(tmp_path / "a.onnx_adapter")).statement == stated
    from sdk.exports import load_format

    for name, file in (("lora", "pytorch_lora_weights.safetensors"), ("webui", "pack.safetensors")):
        load_format(name).export(read, personalizer, tmp_path / name)
        with safe_open(tmp_path / name / file, "pt") as opened:
            assert opened.metadata()["modelspec.license"] == "CC-BY-4.0"
    drawn = personalizer.generate("a <new1> cat", concepts=read, num_inference_steps=2).images[0]
    assert record_of(drawn).licence == "CC-BY-4.0"


@pytest.mark.parametrize("wrong", ["", " ", "two\nlines", "x" * 301, 5, "\x1b[31m"])
def test_rights_are_one_line(personalizer, picture, quick, wrong):
    with pytest.raises(InputError, match="must be one line of text"):
        personalizer.fit(picture, ["cat"], config=quick, licence=wrong)


def test_the_card_says_what_a_pack_is(personalizer, picture, quick, pack, tmp_path):
    text = (tmp_path / "pack" / "README.md").read_text(encoding="utf-8")
    assert text.startswith("---\npipeline_tag:")
    assert 'license: "other"\nlicense_name: "CC-BY-4.0"' in text  # the Hub's identifiers are in small letters
    assert "`<new1> cat`" in text
    assert "the cat's owner agreed" in text
    assert pack.content_hash() in text
    assert "README.md" not in json.loads((tmp_path / "pack" / "personalizer.json").read_text())["files"]
    (tmp_path / "pack" / "README.md").write_text("my own words")
    ConceptPack.from_pretrained(tmp_path / "pack")  # it may be rewritten
    plain = personalizer.fit(picture, [Concept("cat_*#`x")], config=quick.with_changes(steps=1), licence="mit")
    plain.save_pretrained(tmp_path / "plain")
    text = (tmp_path / "plain" / "README.md").read_text(encoding="utf-8")
    assert 'license: "mit"' in text
    assert r"# cat\_\*\#\`x" in text
    assert "consent of whoever is shown: none stated" in text


def test_pictures_say_how_they_were_drawn(personalizer, picture, pack, tmp_path, capsys):
    options = {"seed": 5, "num_inference_steps": 3, "negative_prompt": "dog", "guidance_scale": 2.0, "eta": 0.5}
    prompts = ["a <new1> cat", "a house"]
    result = personalizer.generate(prompts, concepts=[pack, None], num_images=2, **options)
    records = [record_of(image) for image in result.images]
    assert [r.seed for r in records] == [5, 6, 7, 8]
    assert [r.prompt for r in records] == ["a <new1> cat"] * 2 + ["a house"] * 2
    assert [r.pack for r in records] == [pack.content_hash()] * 2 + [None] * 2
    first = records[0]
    assert (first.steps, first.guidance_scale, first.eta, first.negative_prompt) == (3, 2.0, 0.5, "dog")
    assert (first.base, first.concepts, first.edited) == ("tiny", ("<new1> cat",), False)  # no path of this machine
    again = personalizer.generate(
        first.prompt, concepts=pack, seed=6, **{k: v for k, v in options.items() if k != "seed"}
    )
    assert again.images[0].tobytes() == result.images[1].tobytes()  # a record is enough to draw it again
    paths = result.save(tmp_path / "out")
    assert [p.name for p in paths] == ["000.png", "001.png", "002.png", "003.png"]
    assert [read_record(p) for p in paths] == records
    assert result.save(tmp_path / "out")[0].name == "004.png"
    painted = personalizer.inpaint(picture, picture, "a cat", seed=1, num_inference_steps=2).images[0]
    assert record_of(painted).edited
    assert record_of(painted).seed == 1
    assert main(["verify", str(paths[0])]) == 0
    told = capsys.readouterr().out
    assert "prompt: a <new1> cat\n" in told
    assert "seed: 5\n" in told
    assert f"pack: {pack.content_hash()}\n" in told
    assert "licence: CC-BY-4.0\n" in told
    picture.save(tmp_path / "photo.png")
    assert main(["verify", str(tmp_path / "photo.png")]) == 0
    assert "does not say how it was drawn" in capsys.readouterr().out


def test_the_command_keeps_rights_and_records(tiny_model, picture, tmp_path, capsys):
    picture.save(tmp_path / "photo.png")
    (tmp_path / "s.toml").write_text("steps = 1\nbatch_size = 2\ntarget_pool = 2\nprior = 'none'\ntarget_share = 1.0\n")
    model = ["--model", str(tiny_model)]
    fit = ["fit", str(tmp_path / "photo.png"), "--concept", "cat", "--output", str(tmp_path / "p"), *model]
    assert main([*fit, "--config", str(tmp_path / "s.toml"), "--licence", "mit", "--consent", "yes"]) == 0
    assert main(["verify", str(tmp_path / "p"), *model]) == 0
    assert "licence: mit\nconsent: yes\n" in capsys.readouterr().out
    draw = [
        "generate",
        str(tmp_path / "p"),
        "--prompt",
        "a <new1> cat",
        "--steps",
        "2",
        "--output",
        str(tmp_path / "o"),
    ]
    assert main([*draw, "--num-images", "1", "--seed", "9", *model]) == 0
    record = read_record(tmp_path / "o" / "00-00.png")
    assert (record.seed, record.licence) == (9, "mit")
