"""The library: what is kept stays, what is not known goes, names are not paths."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from sdk.errors import InputError, MissingFileError, OutputError
from sdk.library import Library


def write(text):
    def put(path):
        path.write_text(text)
        return {"concepts": [text]}

    return put


def test_packs_are_kept_replaced_renamed_removed_and_restored(tmp_path):
    with Library(tmp_path / "library") as library:
        first = library.packs.put("pets", write("one"))
        second = library.packs.put("pets", write("two"))
        assert (library.packs.get("pets").id, second.path.read_text()) == (second.id, "two")
        assert second.id != first.id
        assert first.path.read_text() == "one"  # whoever draws with it may go on
        library.packs.put("other", write("three"))
        assert [pack.name for pack in library.packs.all()] == ["other", "pets"]
        with pytest.raises(InputError, match="there is a pack other already"):
            library.packs.rename("pets", "other")
        assert library.packs.rename("pets", "animals").about == {"concepts": ["two"]}
        library.packs.remove("animals")
        with pytest.raises(MissingFileError, match="no pack 'animals'"):
            library.packs.get("animals")
        assert library.packs.restore(second.id).name == "animals"
        library.packs.remove("animals")
        assert library.packs.forget(time.time() + 1) == 2
        with pytest.raises(MissingFileError, match="gone for good"):
            library.packs.restore(second.id)
        assert len(list((tmp_path / "library" / "packs").iterdir())) == 1


def test_a_restored_pack_replaces_nothing(tmp_path):
    with Library(tmp_path) as library:
        first = library.packs.put("pets", write("one"))
        library.packs.put("pets", write("two"))
        with pytest.raises(InputError, match="another pack pets now"):
            library.packs.restore(first.id)
        assert library.packs.get("pets").path.read_text() == "two"


@pytest.mark.parametrize(
    "name", ["", "..", "../x", "a/b", "a" * 65, ".hidden", "a ", "ä", 5, None, "a\0b", "-a", "a.", "con"]
)
def test_names_that_cannot_be(tmp_path, name):
    with Library(tmp_path) as library, pytest.raises(InputError, match="goes into prompts"):
        library.packs.put(name, write("x"))


def test_what_cannot_be_written_is_not_kept(tmp_path):
    def broken(path):
        path.write_text("half")
        raise ValueError("no pack")

    with Library(tmp_path) as library:
        library.packs.put("pets", write("one"))
        with pytest.raises(ValueError, match="no pack"):
            library.packs.put("pets", broken)
        assert library.packs.get("pets").path.read_text() == "one"
        assert len(list((tmp_path / "packs").iterdir())) == 1


def test_pictures(tmp_path):
    with Library(tmp_path) as library:
        kept = library.pictures.put(b"png", {"seed": 5})
        assert library.pictures.get(kept.id).about == {"seed": 5}
        assert kept.path.read_bytes() == b"png"
        for id in ("../library", kept.id[:-1], "%", ""):
            with pytest.raises(MissingFileError):
                library.pictures.get(id)
        assert library.pictures.forget(kept.created) == 0
        assert library.pictures.forget(kept.created + 1) == 1
        assert not kept.path.exists()


def test_one_program_at_a_time_and_what_nobody_knows_is_removed(tmp_path):
    with Library(tmp_path) as library:
        kept = library.packs.put("pets", write("one"))
        with pytest.raises(OutputError, match="in use by another program"):
            Library(tmp_path)
    (tmp_path / "packs" / "left by a killed program").mkdir()
    (tmp_path / "pictures" / "left.png").write_bytes(b"")
    with Library(tmp_path) as library:
        assert library.packs.get("pets").path.read_text() == "one"
        assert [path.name for path in (tmp_path / "packs").iterdir()] == [kept.path.name]
        assert not list((tmp_path / "pictures").iterdir())


def test_a_library_of_a_later_version_and_a_file_that_is_none(tmp_path):
    with Library(tmp_path / "later"):
        pass
    connection = sqlite3.connect(tmp_path / "later" / "library.sqlite3")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(OutputError, match="later version; update the package"):
        Library(tmp_path / "later")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "library.sqlite3").write_bytes(b"no database at all" * 100)
    with pytest.raises(OutputError, match="choose another library"):
        Library(tmp_path / "none")


def test_threads_share_one(tmp_path):
    with Library(tmp_path) as library:

        def work(number):
            for i in range(10):
                library.packs.put(f"pack-{number}-{i}", write(str(i)))
                library.packs.put("shared", write(str(number)))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(library.packs.all()) == 41


def test_threads_that_end_leave_no_connections(tmp_path):
    with Library(tmp_path) as library:
        for _ in range(30):
            thread = threading.Thread(target=library.packs.all)
            thread.start()
            thread.join()
        assert len(library.packs._database._free) == 1


def test_a_change_that_fails_leaves_nothing_behind(tmp_path):
    with Library(tmp_path) as library:
        library.packs.put("pets", write("one"))
        database = library.packs._database

        def fail():
            with database.change() as change:
                change.execute("UPDATE packs SET name = 'other'")
                change.execute("no question at all")

        with pytest.raises(OutputError, match="free some space"):
            fail()
        assert library.packs.get("pets").name == "pets"


def test_uploads_of_a_killed_program_go(tmp_path):
    with Library(tmp_path) as library:
        (library.uploads / "left").mkdir()
    with Library(tmp_path) as library:
        assert not list(library.uploads.iterdir())


def test_what_was_acknowledged_outlives_a_kill(tmp_path):
    program = """
import sys
from sdk.library import Library
library = Library(sys.argv[1])
for i in range(100000):
    library.packs.put(f"pack-{i}", lambda path: path.write_text(str(i)) and {})
    print(i, flush=True)
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        last = [int(process.stdout.readline()) for _ in range(20)][-1]
        os.kill(process.pid, signal.SIGKILL)
    with Library(tmp_path) as library:
        for i in range(last + 1):
            assert library.packs.get(f"pack-{i}").path.read_text() == str(i)
        assert len(list((tmp_path / "packs").iterdir())) == len(library.packs.all())
