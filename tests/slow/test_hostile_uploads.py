"""Hostile packs and adapters, sent to a server: it takes them or refuses them in a sentence, and nothing else."""

from __future__ import annotations

import os
import shutil
import zipfile

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed")
pytest.importorskip("httpx", reason="httpx is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")

from sdk import Personalizer
from sdk.library import Library
from sdk.serve import ExportedPainter, Limits, TorchPainter, create_app
from tests.hostile.assets import Assets
from tests.hostile.case import Place, random_of
from tests.hostile.kinds import maker_of
from tests.serve.running import running

pytestmark = pytest.mark.slow
SEED = int(os.environ.get("HOSTILE_SEED", "0"))
LIMITS = Limits(body=16 << 20, seconds=60)


@pytest.fixture(scope="module")
def assets(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HOSTILE_EXPORT", "real")
        patched.setenv("PERSONALIZER_CACHE", str(tmp_path_factory.mktemp("cache")))
        made = Assets(tmp_path_factory.mktemp("hostile") / "assets")
        made.build()
    return made


def zipped(place, folder):
    """A zip of a case's pack, as a browser's user would make it; what a zip cannot hold is left out."""
    with zipfile.ZipFile(place.out / "pack.zip", "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file() and not file.is_symlink():
                archive.write(file, f"pack/{file.relative_to(folder)}")
    return (place.out / "pack.zip").read_bytes()


def sent(client, content, seen):
    """The answer to one upload, looked at; of a pack that was taken also a drawing."""
    answer = client.put("/v1/models/x", content=content)
    seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
    assert answer.status_code in (200, 400, 413, 422), answer.text
    if answer.status_code == 200:
        asked = {"model": "x", "prompt": "a <new1> cat", "steps": 1, "seed": 1}
        drawn = client.post("/v1/images/generations", json=asked)
        assert drawn.status_code in (200, 400, 422), drawn.text
        assert client.delete("/v1/models/x").status_code == 200
        return
    said = answer.json()["error"]["message"]
    assert said.isprintable()
    assert len(said) < 2000
    assert "uploads" not in said, said
    assert "library" not in said, said


@pytest.mark.parametrize("kind", ["pack-manifests", "pack-files"])
def test_packs(assets, tmp_path, kind):
    model = Personalizer.from_pretrained(assets.model, device="cpu")
    seen: dict[int, int] = {}
    with (
        Library(tmp_path / "library") as library,
        running(create_app(library, TorchPainter(model), limits=LIMITS)) as client,
    ):
        for index in range(200):
            place = Place(tmp_path / "case", assets).make()
            maker_of(kind)(random_of(kind, SEED, index), place)
            for folder in (each for each in place.inputs.iterdir() if each.is_dir()):
                sent(client, zipped(place, folder), seen)
            shutil.rmtree(place.root)
        assert client.get("/readyz").status_code == 200
        assert sorted(each.name for each in library.folder.iterdir() if each.is_dir()) == [
            "jobs",
            "packs",
            "pictures",
            "uploads",
        ]
        assert not list((library.folder / "uploads").iterdir())
    print(kind, seen)
    assert seen.get(400, 0) > 50


def test_adapters(assets, tmp_path):
    seen: dict[int, int] = {}
    painter = ExportedPainter(assets.exported, "onnxruntime")
    with Library(tmp_path / "library") as library, running(create_app(library, painter, limits=LIMITS)) as client:
        for index in range(200):
            place = Place(tmp_path / "case", assets).make()
            maker_of("adapters")(random_of("adapters", SEED, index), place)
            for file in (each for each in place.inputs.iterdir() if each.is_file()):
                sent(client, file.read_bytes(), seen)
            shutil.rmtree(place.root)
        assert client.get("/readyz").status_code == 200
    print("adapters", seen)
    assert seen.get(400, 0) > 50
