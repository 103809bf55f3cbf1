"""Packs that come over the network: hostile until they are read, adapters and zip files alike."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

pytest.importorskip("onnxscript", reason="onnxscript is not installed")
pytest.importorskip("fastapi", reason="fastapi is not installed")
pytest.importorskip("httpx", reason="httpx is not installed")

from sdk import ConceptPack, Personalizer
from sdk.library import Library
from sdk.serve import TorchPainter, create_app
from tests.serve.running import DRAW, STEPS, opened, pixels, refusal, running, zipped


def test_hostile_uploads_are_refused_and_leave_nothing(client, packs, tmp_path):
    good = (packs / "0.onnx_adapter").read_bytes()
    before = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    for content in (b"", b"x", good[:-9], good[:50] + b"\xff" * 50 + good[100:], zipped(packs / "0"), b"\0" * 1000):
        answer = client.put("/v1/models/bad", content=content)
        refusal(answer, 400, "")
    refusal(client.put("/v1/models/a%2Fb", content=good), 404, "")
    refusal(client.put("/v1/models/.hidden", content=good), 400, "goes into prompts")
    refusal(client.put("/v1/models/big", content=b"x" * ((1 << 20) + 1)), 413, "a request may hold")

    def parts():
        for _ in range(40):
            yield b"x" * (1 << 16)

    refusal(client.put("/v1/models/big", content=parts()), 413, "a request may hold")
    for kind in ("application/json", "multipart/form-data; boundary=x"):
        refusal(client.post(DRAW, content=parts(), headers={"content-type": kind}), 413, "a request may hold")
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == before


def test_torch_draws_too_and_takes_packs_as_zip_files(tiny_model, packs, tmp_path):
    painter = TorchPainter(Personalizer.from_pretrained(tiny_model, device="cpu"))
    with Library(tmp_path) as library, running(create_app(library, painter)) as client:
        for name, content in (("flat", zipped(packs / "0")), ("inner", zipped(packs / "0", "my pets/"))):
            assert client.put(f"/v1/models/{name}", content=content).status_code == 200
        drawn = [
            client.post(DRAW, json={"model": name, "prompt": "a <new1> cat", **STEPS}).json()["data"][0]["b64_json"]
            for name in ("flat", "inner")
        ]
        assert drawn[0] == drawn[1]
        own = painter.model.generate(
            "a <new1> cat", concepts=ConceptPack.from_pretrained(packs / "0"), seed=5, num_inference_steps=2
        )
        assert np.abs(pixels(opened(drawn[0])) - pixels(own.images[0])).max() <= 1
        names = sorted(path.name for path in (tmp_path / "packs").iterdir())
        for content, part in (
            (b"no zip", "no zip file"),
            (zipped(packs / "0", "../"), "several folders"),
            (zipped(packs / "0", "a/b/"), "several folders"),
            (zipped(packs / "0")[:-30], "no zip file"),
            (_with("../evil"), "several folders"),
            (_with("con.txt"), "which no pack does"),
            (_with(*(f"{i}" for i in range(70))), "70 files"),
            (_with("x", "x"), "damaged"),
            (_with("x"), ""),
        ):
            refusal(client.put("/v1/models/bad", content=content), 400, part)
        assert sorted(path.name for path in (tmp_path / "packs").iterdir()) == names


def _with(*names):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, b"0" * 100)
    return packed.getvalue()


def test_a_bomb_ends_where_the_limit_is(tmp_path):
    from sdk.errors import PackError
    from sdk.serve.api.uploads import unpack

    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("personalizer.json", b"0" * (64 << 20))
    with pytest.raises(PackError, match="more than a request may"):
        unpack(tmp_path / "bomb.zip", tmp_path / "out", 1 << 20)
    assert sum(file.stat().st_size for file in (tmp_path / "out").iterdir()) <= 1 << 20
