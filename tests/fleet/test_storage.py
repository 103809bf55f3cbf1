"""Outputs that are no folder: memory, S3; checkpoints and prior pictures travel through them."""

from __future__ import annotations

import io
import tarfile
import threading

import fsspec
import pytest

from sdk import ConceptPack
from sdk.errors import InputError, MissingFileError, OutputError
from sdk.fleet import Job, fit_many
from sdk.fleet.place import Place
from sdk.fleet.storage import Storage, is_address, packed, read_address, unpack
from sdk.runtime import Cancelled


@pytest.fixture
def memory():
    """Return an address in this process's memory, empty before and after."""
    files = fsspec.filesystem("memory")
    yield "memory://fleet"
    if files.exists("/fleet"):
        files.rm("/fleet", recursive=True)


@pytest.fixture
def s3(monkeypatch):
    """Return an address in a server of this process that speaks S3."""
    import s3fs
    from moto.server import ThreadedMotoServer

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem()
    files.mkdir("fleet-bucket")
    yield "s3://fleet-bucket/packs"
    files.rm("fleet-bucket", recursive=True)  # another server of this process would still have it
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture(params=["folder", "file:", "memory:", "s3:"])
def place(request, tmp_path):
    """Return one place of each kind."""
    kinds = {"folder": str(tmp_path / "out"), "file:": f"file:{tmp_path / 'out'}"}
    named = {"memory:": "memory", "s3:": "s3"}
    return kinds.get(request.param) or request.getfixturevalue(named[request.param])


def test_files_are_read_written_listed_and_removed(place):
    storage = Storage(place)
    assert storage.read("a/b") is None
    assert not storage.has("a/b")
    assert storage.names("a") == set()
    storage.remove("a/b")
    for name in ("a/b", "a/c", "a/d/e"):
        storage.write(name, name.encode())
    storage.write("a/b", b"anew")
    again = Storage(place)
    assert again.read("a/b") == b"anew"
    assert again.has("a/d/e")
    assert again.names("a") == {"b", "c"}
    assert again.read_all(["a/b", "a/none", "a/c"]) == {"a/b": b"anew", "a/c": b"a/c"}
    again.remove("a/b")
    assert storage.names("a") == {"c"}


def test_what_is_no_place_is_said():
    with pytest.raises(OutputError, match="such as s3fs"):
        Storage("nowhere://fleet")
    assert not is_address("C:\\packs")
    assert not is_address("a/b")


def test_a_place_that_cannot_be_reached_is_said(s3):
    with pytest.raises(OutputError, match="cannot reach s3://no-such-bucket"):
        Storage("s3://no-such-bucket/packs")


@pytest.mark.parametrize("kind", ["memory", "s3"])
def test_fits_go_where_they_are_told(kind, jobs, tiny_model, tmp_path, request):
    place = request.getfixturevalue(kind)
    usual = {"model": tiny_model, "device": "cpu", "threads": 1}
    here = fit_many(jobs[:2], tmp_path / "out", **usual)
    there = fit_many(jobs[:2], place, **usual)
    assert [each.status for each in there.outcomes] == ["done", "done"]
    assert [o.content_sha256 for o in there.outcomes] == [o.content_sha256 for o in here.outcomes]
    storage = Storage(place)
    assert storage.names("checkpoints") == set()
    for name in ("results.csv", "results.parquet", "summary.html"):
        assert storage.has(name)
    copied = tmp_path / "copied"
    copied.mkdir()
    pack = there.outcomes[0].pack
    for name in storage.names(pack):
        (copied / name).write_bytes(storage.read(f"{pack}/{name}"))
    assert ConceptPack.from_pretrained(copied).content_hash() == here.outcomes[0].content_sha256
    assert fit_many(jobs[:2], place, **usual).fitted == 0


def test_a_fit_goes_on_on_another_machine(jobs, tiny_model, memory, tmp_path, monkeypatch):
    usual = {"model": tiny_model, "device": "cpu", "threads": 1}
    alone = fit_many(jobs[:1], tmp_path / "alone", **usual)
    cancel, storage = threading.Event(), Storage(memory)
    written = Storage.write

    def write(self, name, data):
        written(self, name, data)
        if name.startswith("checkpoints/"):
            cancel.set()  # with the first checkpoint out, this machine is gone

    monkeypatch.setattr(Storage, "write", write)
    monkeypatch.setenv("PERSONALIZER_CACHE", str(tmp_path / "machine 1"))
    with pytest.raises(Cancelled):
        fit_many(jobs[:1], memory, **usual, cancel=cancel)
    monkeypatch.undo()
    assert len(storage.names("checkpoints")) == 1
    folders = {name.split("/")[3] for name in fsspec.filesystem("memory").find("/fleet/priors")}
    monkeypatch.setenv("PERSONALIZER_CACHE", str(tmp_path / "machine 2"))
    steps = []
    monkeypatch.setattr("sdk.fleet.place.unpack", lambda data, folder: (steps.append(len(data)), unpack(data, folder)))
    result = fit_many(jobs[:1], memory, **usual)
    assert len(steps) == 1
    assert result.outcomes[0].content_sha256 == alone.outcomes[0].content_sha256
    assert storage.names("checkpoints") == set()
    (folder,) = folders  # what the first one drew, the second took
    assert {each.name for each in (tmp_path / "machine 2/priors" / folder).glob("*.png")} == storage.names(
        f"priors/{folder}"
    )
    assert not list((tmp_path / "machine 2/fleet").rglob("packs/*"))


def test_pictures_may_be_at_addresses(jobs, tiny_model, picture, memory, tmp_path):
    fsspec.filesystem("memory").pipe("/fleet/pets.png", (tmp_path / "pets.png").read_bytes())
    usual = {"model": tiny_model, "device": "cpu", "threads": 1}
    far = Job(image=f"{memory}/pets.png", concepts=jobs[0].concepts, settings=jobs[0].settings)
    gone = {"image": f"{memory}/none.png", "concepts": ["cat"]}
    result = fit_many([far, jobs[0], gone], tmp_path / "out", **usual)
    assert [each.status for each in result.outcomes] == ["done", "done", "failed"]
    assert result.outcomes[0].id == result.outcomes[1].id
    assert "none.png" in result.outcomes[2].reason
    with pytest.raises(InputError, match="at most 3"):
        read_address(f"{memory}/pets.png", 3)
    with pytest.raises(MissingFileError):
        read_address(f"{memory}/none.png", 3)


def test_memory_is_one_processs_own(jobs, memory):
    with pytest.raises(InputError, match="every worker reaches"):
        fit_many(jobs, memory, workers=2)


def test_what_arrives_is_nothing_but_files_of_the_folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/one").write_bytes(b"1")
    unpack(packed(tmp_path / "a", ["one", "none"]), tmp_path / "b")
    assert [(each.name, each.read_bytes()) for each in (tmp_path / "b").iterdir()] == [("one", b"1")]
    hostile = io.BytesIO()
    with tarfile.open(fileobj=hostile, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../outside"), io.BytesIO())
    with pytest.raises(InputError, match="damaged"):
        unpack(hostile.getvalue(), tmp_path / "c")
    assert not (tmp_path / "outside").exists()
    with pytest.raises(InputError, match="damaged"):
        unpack(b"no archive", tmp_path / "d")


def test_storage_that_cannot_be_reached_for_a_while_stops_no_fit(jobs, tiny_model, memory, tmp_path, monkeypatch):
    written = Storage.write

    def write(self, name, data):
        if name.startswith(("checkpoints/", "priors/")):
            raise OutputError("cannot reach it: 503")
        written(self, name, data)

    monkeypatch.setattr(Storage, "write", write)
    monkeypatch.setenv("PERSONALIZER_CACHE", str(tmp_path / "cache"))
    result = fit_many(jobs[:1], memory, model=tiny_model, device="cpu", threads=1)
    assert [each.status for each in result.outcomes] == ["done"], result.failed


def test_a_cancelled_fit_leaves_its_last_step_to_others(jobs, tiny_model, memory, monkeypatch):
    cancel, storage = threading.Event(), Storage(memory)
    settings = dict(jobs[0].settings) | {"checkpoint_every": 100}
    seldom = Job(image=jobs[0].image, concepts=jobs[0].concepts, settings=settings)
    keep = Place.keep

    def first_step(self):
        cancel.set()
        keep(self)

    monkeypatch.setattr(Place, "keep", first_step)
    with pytest.raises(Cancelled):
        fit_many([seldom], memory, model=tiny_model, device="cpu", threads=1, cancel=cancel)
    assert len(storage.names("checkpoints")) == 1


def test_another_fleet_on_the_same_machine_waits_for_the_same_job(jobs, tiny_model, memory):
    results = []

    def work():
        results.append(fit_many(jobs[:2], memory, model=tiny_model, device="cpu", threads=1))

    both = [threading.Thread(target=work) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert [[o.status for o in r.outcomes] for r in results] == [["done"] * 2] * 2, [r.failed for r in results]
    assert {tuple(o.content_sha256 for o in r.outcomes) for r in results} == {
        tuple(o.content_sha256 for o in results[0].outcomes)
    }


def test_who_signs_an_address_is_not_told(tmp_path, tiny_model):
    rows = [{"image": "https://user:word@127.0.0.1:9/pets.png?X-Signature=SECRET", "concepts": ["cat"]}]
    rows.append(rows[0] | {"concepts": ["no noun!"]})
    result = fit_many(rows, tmp_path / "out", model=tiny_model, device="cpu")
    for outcome in result.outcomes:
        assert outcome.status == "failed"
    for file in (tmp_path / "out").iterdir():
        if file.is_file():
            assert not {b"SECRET", b"word@"} & {w for w in (b"SECRET", b"word@") if w in file.read_bytes()}, file


@pytest.mark.parametrize("place", ["zip://x", "reference://x", "github://x"])
def test_places_that_are_none_are_said_in_one_sentence(place):
    with pytest.raises(OutputError) as said:
        Storage(place)
    assert "\n" not in str(said.value)


def test_what_nobody_signs_for_is_said(monkeypatch):
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/none")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(OutputError, match="cannot reach s3://bucket/packs: .*; check it and the rights to it"):
        Storage("s3://bucket/packs")
    with pytest.raises(InputError, match="cannot read s3://bucket/pets.png: .*; check the row"):
        read_address("s3://bucket/pets.png", 10)
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_place_that_cannot_be_written_is_said(memory, monkeypatch):
    def pipe_file(*given, **options):
        raise NotImplementedError

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "pipe_file", pipe_file)
    with pytest.raises(OutputError, match="of a kind that cannot be written; give a folder or a bucket"):
        Storage(memory)
