"""What goes wrong with a fit: it is said, in time, and nothing that was done is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from sdk import Concept, ConceptPack, FitConfig
from sdk.concepts import resolve_concepts
from sdk.data.prior_cache import PriorCache
from sdk.errors import InputError, MissingFileError, NotFiniteError, OutputError
from sdk.fit import priors_for
from sdk.fit.kept.checkpoint import read_about
from sdk.runtime import Cancelled


def small(**changes):
    return FitConfig(
        steps=4, batch_size=2, target_pool=2, prior="none", target_share=1.0, checkpoint_every=1
    ).with_changes(**changes)


@pytest.mark.parametrize("rate", [1e8, 1e30])
@pytest.mark.parametrize("method", ["disendiff", "textual_inversion", "dreambooth"])
def test_a_fit_that_diverges_is_no_success(personalizer, picture, tmp_path, rate, method):
    """It stops, with the step and the cause in the message, or at the latest where float16 would overflow."""
    config = FitConfig.preset("reference", method, steps=30, batch_size=2, prior="none", target_share=1.0)
    rates = dict.fromkeys(("learning_rate",), rate) | ({} if method == "dreambooth" else {"token_learning_rate": rate})
    with pytest.raises(NotFiniteError, match="learning.rate"):
        personalizer.fit(
            picture, ["cat"], method=method, config=config.with_changes(**rates), output_dir=tmp_path / "p"
        )
    assert not (tmp_path / "p").exists()
    assert personalizer.pack is None


def test_the_last_good_checkpoint_stays(personalizer, picture, tmp_path, monkeypatch):
    from sdk.methods.disendiff import DisenDiff

    real, calls = DisenDiff.losses, []

    def losses(self, batch):
        found = real(self, batch)
        calls.append(1)
        return {**found, "denoise": found["denoise"] * float("nan")} if len(calls) == 3 else found

    monkeypatch.setattr(DisenDiff, "losses", losses)
    with pytest.raises(NotFiniteError, match=r"denoise is nan at step 3 .*last good checkpoint stays in .*p\.partial"):
        personalizer.fit(picture, ["cat"], config=small(), output_dir=tmp_path / "p")
    assert read_about(tmp_path / "p.partial").step == 2
    monkeypatch.undo()
    resumed = personalizer.fit(picture, ["cat"], config=small(), output_dir=tmp_path / "p", resume=True)
    assert resumed.content_hash() == personalizer.fit(picture, ["cat"], config=small()).content_hash()


def test_weights_that_are_not_finite_are_not_kept(personalizer, picture, tmp_path, monkeypatch):
    """The loss of the step before was still a number."""
    from sdk.fit.step import accelerate as loop

    real = loop.train_step

    def step(method, batch, optimizer, scaler, index):
        found = real(method, batch, optimizer, scaler, index)
        if index == 1:
            with torch.no_grad():
                method.embeddings[0, 0] = float("inf")
        return found

    monkeypatch.setattr(loop, "train_step", step)
    with pytest.raises(NotFiniteError, match="embeddings is not finite at step 2"):
        personalizer.fit(picture, ["cat"], config=small(), output_dir=tmp_path / "p")
    monkeypatch.setattr(loop, "train_step", real)
    resumed = personalizer.fit(picture, ["cat"], config=small(), output_dir=tmp_path / "p", resume=True)
    assert resumed.embeddings.isfinite().all()


def test_concepts_that_no_caption_holds_are_refused_before_anything(personalizer, picture, tmp_path):
    """Eight concepts whose sheet could not be drawn used to be trained to the end."""
    nouns = ["cat"] * 8
    length = personalizer.pipe.tokenizer.model_max_length
    ran = []
    fitting = {"config": small(steps=1, scale_augmentation=True), "callback": ran.append, "output_dir": tmp_path / "p"}
    with pytest.raises(InputError, match=rf"longer than the {length} tokens"):
        personalizer.fit(picture, ["cat house tree car dog ball"] * 8, **fitting)
    assert not ran
    assert not any(tmp_path.iterdir())
    pack = personalizer.fit(picture, nouns, **fitting)
    assert len(pack.concepts) == 8
    assert (tmp_path / "p" / "samples.png").is_file()


def fits_into(personalizer, picture, folder, **more):
    return personalizer.fit(picture, ["cat"], config=small(steps=1), output_dir=folder, **more)


def test_outputs_that_work(personalizer, picture, tmp_path, monkeypatch):
    expected = personalizer.fit(picture, ["cat"], config=small(steps=1)).content_hash()
    (tmp_path / "empty").mkdir(mode=0o750)
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for folder in (tmp_path / "empty", tmp_path / "link", tmp_path / "new" / "deep", ".", tmp_path / ("n" * 240)):
        fits_into(personalizer, picture, folder)
        assert ConceptPack.from_pretrained(folder).content_hash() == expected, folder
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "empty").stat().st_mode & 0o777 == 0o750
    assert {p.name for p in tmp_path.iterdir()} == {"empty", "target", "link", "here", "new", "n" * 240}


def test_outputs_that_do_not_are_refused_before_the_first_step(personalizer, picture, tmp_path, monkeypatch):
    ran = []
    (tmp_path / "file").write_text("x")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("x")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a.partial").symlink_to("elsewhere")
    (tmp_path / "b.partial").write_text("x")
    before = sorted(p.name for p in tmp_path.rglob("*"))
    for folder, said in (
        (tmp_path / "file", "is a file"),
        (tmp_path / "taken", "holds other files"),
        (tmp_path / "a", "is a link"),
        (tmp_path / "b", "is a file"),
        (tmp_path / ("n" * 252), "shorter name"),
        (tmp_path / ("n" * 300), "no path that a system can have"),
        (tmp_path / "file" / "below", "cannot write"),
        ("/proc/nobody", "cannot write"),
    ):
        with pytest.raises((OutputError, InputError), match=said):
            fits_into(personalizer, picture, folder, callback=ran.append)
    assert not ran
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


def test_no_room_is_said_before_the_first_step(personalizer, picture, tmp_path, monkeypatch):
    import errno

    from sdk.fit.kept import output

    def full(folder, count):
        if count > 1 << 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(output, "check_space", full)
    ran = []
    with pytest.raises(OutputError, match="No space left on device; free some space"):
        fits_into(personalizer, picture, tmp_path / "p", callback=ran.append)
    assert not any(tmp_path.iterdir())

    def other_disk(folder, count):
        """A folder that is there may be a mount point of its own."""
        if folder == tmp_path / "mounted":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    (tmp_path / "mounted").mkdir()
    monkeypatch.setattr(output, "check_space", other_disk)
    with pytest.raises(OutputError, match="Read-only file system; choose a folder"):
        fits_into(personalizer, picture, tmp_path / "mounted", callback=ran.append)
    assert not ran
    assert os.listdir(tmp_path) == ["mounted"]


def test_a_file_that_appears_during_the_fit_stays(personalizer, picture, tmp_path):
    def write(report):
        (tmp_path / "p").mkdir(exist_ok=True)
        (tmp_path / "p" / "notes.txt").write_text("mine")

    pack = fits_into(personalizer, picture, tmp_path / "p", callback=write)
    assert (tmp_path / "p" / "notes.txt").read_text() == "mine"
    assert ConceptPack.from_pretrained(tmp_path / "p").content_hash() == pack.content_hash()
    assert {p.name for p in tmp_path.iterdir()} == {"p"}


def test_the_second_fit_into_one_folder_is_told_at_once(personalizer, picture, tmp_path):
    said = []

    def second(report):
        if report.step == 1:
            with pytest.raises(OutputError) as caught:
                fits_into(personalizer, picture, tmp_path / "p")
            said.append(str(caught.value))

    personalizer.fit(picture, ["cat"], config=small(), output_dir=tmp_path / "p", callback=second)
    assert len(said) == 1
    assert "another fit is writing to" in said[0]
    header, *lines = (tmp_path / "p" / "metrics.jsonl").read_text().splitlines()
    assert "header" in json.loads(header)
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]


def hears_ctrl_c():
    """Programs that a shell put into the background do not, and neither do their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(personalizer, tiny_model, picture, tmp_path):
    """Also where none was due."""
    picture.save(tmp_path / "photo.png")
    (tmp_path / "s.toml").write_text(
        "steps = 400\nbatch_size = 2\ntarget_pool = 2\nprior = 'none'\ntarget_share = 1.0\ncheckpoint_every = 0\n"
    )
    command = [sys.executable, "-m", "sdk.commands.main", "fit", "photo.png", "--concept", "cat", "--output", "p"]
    command += ["--config", "s.toml", "--model", str(tiny_model), "--device", "cpu"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=hears_ctrl_c)
    log = tmp_path / "p.partial" / "metrics.jsonl"
    while process.poll() is None and not (log.is_file() and log.read_text().count("\n") > 3):
        threading.Event().wait(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130, said
    assert "--resume" in said.splitlines()[-1]
    done = read_about(tmp_path / "p.partial").step
    assert 3 <= done < 400
    assert not (tmp_path / "p").exists()


def test_the_second_ctrl_c_stops_at_once_and_handlers_come_back():
    program = """
    import os, signal
    from sdk.interrupts import deferred_interrupt
    with deferred_interrupt() as interrupted:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupted.is_set()
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            print("at once")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    """
    program = textwrap.dedent(program)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, preexec_fn=hears_ctrl_c)
    assert done.stdout == "at once\n", done.stderr


class Priors:
    """Prior pictures of a fit, and how many pictures were drawn for them."""

    def __init__(self, personalizer, quick, monkeypatch, cache):
        monkeypatch.setenv("PERSONALIZER_CACHE", str(cache))
        self.personalizer, self.cache = personalizer, cache
        self.config = quick.with_changes(prior_count=4, prior_prompts=("photo of {each}",))
        self.concepts = resolve_concepts(["cat", "dog"])

    def __call__(self):
        rows = []
        hook = self.personalizer.pipe.vae.decoder.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
        priors = priors_for(self.personalizer, self.concepts, self.config)
        hook.remove()
        return sum(rows), [(p.caption, np.asarray(p.image, int)) for p in priors]

    def files(self):
        return sorted(self.cache.glob("priors/*/*.png"))


def alike(found, wanted):
    return [caption for caption, _ in found] == [caption for caption, _ in wanted] and all(
        abs(a - b).max() <= 1 for (_, a), (_, b) in zip(found, wanted, strict=True)
    )


@pytest.fixture
def priors(personalizer, quick, monkeypatch, tmp_path):
    return Priors(personalizer, quick, monkeypatch, tmp_path)


def test_kept_priors_are_repaired_one_by_one(priors):
    drawn, first = priors()
    assert drawn == 4
    assert priors()[0] == 0
    names = [p.name for p in priors.files()]

    def deleted(files):
        files[1].unlink()

    def exchanged(files):
        a, b = files[0].read_bytes(), files[2].read_bytes()
        files[0].write_bytes(b)
        files[2].write_bytes(a)

    def renamed(files):
        files[1].rename(files[1].with_name("00003-" + files[1].name[6:]))

    def truncated(files):
        files[3].write_bytes(files[3].read_bytes()[:60])

    def another(files):
        Image.new("RGB", (32, 32)).save(files[0].with_name("00001-0.png"))
        (files[0].parent / "._00001.png").write_bytes(b"\0\5\x16\7")
        files[0].with_name("99999-x.png").write_text("x")

    for damage, count in ((deleted, 1), (exchanged, 2), (renamed, 1), (truncated, 1), (another, 0)):
        damage(priors.files())
        drawn, found = priors()
        assert drawn == count, damage
        assert alike(found, first), damage
        assert {p.name for p in priors.files()} - {"99999-x.png", "._00001.png"} == set(names), damage
        assert priors()[0] == 0, damage


def test_priors_are_kept_one_by_one_and_more_are_added(priors):
    cancel = threading.Event()
    priors.config = priors.config.with_changes(prior_count=20)

    def stop(event):
        if event.done == 16:
            cancel.set()

    with pytest.raises(Cancelled):
        priors_for(priors.personalizer, priors.concepts, priors.config, stop, cancel)
    assert len(priors.files()) == 16
    assert priors()[0] == 4
    priors.config = priors.config.with_changes(prior_count=22)
    assert priors()[0] == 2


def test_priors_are_of_the_very_same_model(priors, tmp_path_factory):
    """Weights outside of K and V, a LoRA, and the noise levels count too."""
    drawn, plain = priors()
    pipe = priors.personalizer.pipe
    with torch.no_grad():
        pipe.text_encoder.get_input_embeddings().weight[:, 0] += 0.5
    drawn, other = priors()
    assert drawn == 4
    with torch.no_grad():
        pipe.text_encoder.get_input_embeddings().weight[:, 0] -= 0.5
        pipe.unet.conv_out.weight.data[0, 0, 0, 0] += 1.0
    assert priors()[0] == 4
    pipe.unet.conv_out.weight.data[0, 0, 0, 0] -= 1.0
    from peft import LoraConfig

    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
    assert priors()[0] == 4
    assert priors()[0] == 0
    pipe.unet.disable_adapters()
    priors()
    pipe.unet.enable_adapters()
    assert priors()[0] == 0


def test_a_cache_that_cannot_be_written_is_a_note(priors, monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("PERSONALIZER_CACHE", str(tmp_path / "file"))
    drawn, found = priors()
    assert drawn == 4
    assert len(found) == 4
    assert caplog.text.count("point PERSONALIZER_CACHE to a folder") == 1


def test_a_kept_picture_of_another_size_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("PERSONALIZER_CACHE", str(tmp_path))
    PriorCache({"a": 1}).write(3, Image.new("RGB", (8, 8), "red"))
    assert PriorCache({"a": 1}).read(3, 8).getpixel((0, 0)) == (255, 0, 0)
    assert PriorCache({"a": 1}).read(3, 16) is None
    assert PriorCache({"a": 2}).read(3, 8) is None
    assert PriorCache({"a": 1}).read(2, 8) is None


def test_a_wide_picture_is_said_to_be_cut(personalizer, picture, caplog):
    wide = Image.new("RGB", (128, 64))
    wide.paste(picture)
    personalizer.fit(wide, [Concept("cat")], config=small(steps=1))
    assert "of the picture (128 x 64) the centre square is used, 50 % is cut off" in caplog.text
    caplog.clear()
    personalizer.fit(picture, [Concept("cat")], config=small(steps=1))
    assert "cut off" not in caplog.text


def test_nothing_but_a_checkpoint_keeps_unfinished_work(personalizer, picture, tmp_path):
    """A refusal leaves no folder behind."""
    with pytest.raises(MissingFileError):
        personalizer.fit(picture, ["cat"], config=small(prior=str(tmp_path / "no")), output_dir=tmp_path / "p")
    cancel = threading.Event()
    with pytest.raises(Cancelled):
        personalizer.fit(
            picture, ["cat"], config=small(), output_dir=tmp_path / "p", progress=lambda _: cancel.set(), cancel=cancel
        )
    assert not any(tmp_path.iterdir())
