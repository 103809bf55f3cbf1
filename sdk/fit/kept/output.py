"""Where a fit writes: the pack's folder, and until it is whole the folder of unfinished work beside it.

Everything that can be wrong with a folder is found out before the first step: whether the pack can be put there in the
end, whether there is room, whether another fit is at it, whether what is there goes together with what is asked for.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...disk.files import as_path, check_space, reporting_full_disk
from ...disk.folders import exclusive, new_folder, recover
from ...errors import OutputError, PackError, SdkError
from ...pack import BY_PRODUCTS, MANIFEST, ConceptPack
from ..identity import changes
from ..request import FitRequest
from .checkpoint import CHECKPOINT, read_about
from .metrics import METRICS

log = logging.getLogger("sdk")
_INSIDE = ".partial"  # the name of unfinished work in a folder beside which nothing may be written
_OURS = (CHECKPOINT, METRICS)
_LATER = ("steps",)  # may be more than before when a fit goes on


@dataclass(frozen=True)
class FitOutput:
    """An output folder that a fit has to itself.

    Attributes:
        folder: the pack's, links followed.
        work: of unfinished work.
        finished: the pack, if this very fit already ended.
    """

    folder: Path
    work: Path
    finished: ConceptPack | None

    def check_room(self, unfinished: int, pack: int) -> None:
        """Raise :class:`OutputError` if so many bytes have no room beside the pack, or the pack has none.

        A folder that is there may be on another disk than what is beside it.
        """
        with reporting_full_disk(self.folder, self.work):
            check_space(self.work, unfinished)
            if self.folder.is_dir():
                check_space(self.folder, pack)

    def begin(self) -> None:
        """Let go what an earlier fit left, if there is no checkpoint to go on from."""
        if not (self.work / CHECKPOINT).exists():
            (self.work / METRICS).unlink(missing_ok=True)

    def put(self, pack: ConceptPack) -> None:
        """Let the pack appear, whole, with the log of its losses.

        Raises:
            OutputError: another pack appeared there meanwhile; the unfinished work stays.
        """
        with new_folder(self.folder, self.work, manifest=MANIFEST, by_products=BY_PRODUCTS, replace=False) as folder:
            if (self.work / METRICS).is_file():
                shutil.copy(self.work / METRICS, folder / METRICS)
            pack.write_files(folder)

    def clear(self) -> None:
        """Remove the unfinished work: nothing of it is needed any more. Files of others stay."""
        if not _of_others(self.work):
            shutil.rmtree(self.work, ignore_errors=True)
            return
        for name in _OURS:
            (self.work / name).unlink(missing_ok=True)


@contextmanager
def opened(folder: str | Path, asked: FitRequest, resume: bool) -> Iterator[FitOutput]:
    """Have an output folder for the length of a fit.

    Args:
        folder: for the pack.
        asked: what is asked for.
        resume: go on from a checkpoint of this fit, or return its pack; else an earlier checkpoint goes.

    Raises:
        OutputError: it is a file, holds a pack or other files, cannot be written, or another fit is at it; or what it
            holds was made of something else than what is asked for, which is named.
    """
    shown = as_path(folder)
    target = Path(os.path.realpath(shown))
    with reporting_full_disk(shown, target.parent):
        _finished(target, shown, asked, resume)  # before a folder is made for nothing
        if target.is_dir():
            check_space(target, 1)
        work = _work_folder(target, shown)
    busy = f"another fit is writing to {shown}; wait until it is done, or give another folder"
    with exclusive(work, busy):
        try:
            with reporting_full_disk(shown, target.parent):
                finished = _finished(target, shown, asked, resume)  # again: it may have ended meanwhile
                check_space(work, 1 << 20)
                if finished is None:
                    _check_checkpoint(work, asked, resume)
            yield FitOutput(target, work, finished)
        finally:
            if work.is_dir() and not any(work.iterdir()):
                work.rmdir()


def _finished(target: Path, shown: Path, asked: FitRequest, resume: bool) -> ConceptPack | None:
    """The pack if this very fit already ended; a folder that holds anything else is refused."""
    if target.exists() and not target.is_dir():
        raise OutputError(f"{shown} is a file; give a folder for the pack")
    recover(target, MANIFEST)
    there = {entry.name for entry in target.iterdir()} - {_INSIDE} if target.is_dir() else set()
    if not there:
        return None
    if MANIFEST not in there:
        if resume and any((w / CHECKPOINT).is_file() for w in _work_folders(target)):
            return None  # they appeared while the fit ran, and stay
        raise OutputError(f"{shown} holds other files; give an empty or a new folder for the pack")
    if not resume:
        raise OutputError(f"{shown} already holds a pack; remove it or give another folder")
    pack = ConceptPack.from_pretrained(target)
    if pack.provenance.get("identity_sha256") == asked.identity:
        return pack
    before = pack.provenance.get("depends_on")
    found = changes(before, asked.depends_on) if isinstance(before, dict) else []
    what = f" that differs in {', '.join(found)}" if found else " of another fit"
    raise OutputError(f"{shown} already holds a pack{what}; remove it or give another folder")


def _work_folder(target: Path, shown: Path) -> Path:
    """Create the folder of unfinished work: beside the pack's, or in it where nothing may be written beside it."""
    beside = _work_folders(target)[0]
    for work in _work_folders(target) if target.is_dir() else (beside,):
        if work.is_symlink():
            raise OutputError(f"{work} is a link, and unfinished work goes there; remove the link")
        try:
            work.mkdir(parents=True, exist_ok=True)
            check_space(work, 1)
            strange = _of_others(work)
            if strange:
                raise OutputError(f"{work} is for unfinished work and holds other files ({strange[0]}); move them away")
            return work
        except PermissionError:
            continue
        except FileExistsError as error:
            raise OutputError(f"{work} is a file, and unfinished work goes there; move it away") from error
        except OSError as error:
            if error.errno is None or work is not beside or not target.is_dir():
                raise
    raise OutputError(f"cannot write to {shown} or beside it; choose a folder that you may write to")


def _work_folders(target: Path) -> tuple[Path, Path]:
    """Where unfinished work may be: beside the pack, or in its folder."""
    inside = target / _INSIDE
    return (target.with_name(f"{target.name}.partial") if target.name else inside), inside


def _of_others(work: Path) -> list[str]:
    """Names in a folder of unfinished work that are none of ours; hidden files are nobody's."""
    return sorted(e.name for e in work.iterdir() if e.name not in _OURS and not e.name.startswith("."))


def is_last_of(work: Path, asked: FitRequest) -> bool:
    """Whether there is a checkpoint of the last step of this very fit: sheets are still to be drawn."""
    try:
        about = read_about(work)
    except PackError:
        return False
    return about is not None and about.depends_on == asked.depends_on and about.step == asked.config.steps


def unfinished(folder: str | Path) -> Path | None:
    """Return where the checkpoint of an unfinished fit to a folder is, if there is one."""
    target = Path(os.path.realpath(as_path(folder)))
    return next((work for work in _work_folders(target) if (work / CHECKPOINT).is_file()), None)


def settings_before(folder: str | Path) -> dict[str, Any] | None:
    """Return what a fit to a folder depended on, unfinished or done, if one is there that can be read."""
    target = Path(os.path.realpath(as_path(folder)))
    with suppress(SdkError, OSError):
        work = unfinished(folder)
        about = None if work is None else read_about(work)
        if about is not None:
            return about.depends_on
        if (target / MANIFEST).is_file():
            before = ConceptPack.from_pretrained(target).provenance.get("depends_on")
            return before if isinstance(before, dict) else None
    return None


def _check_checkpoint(work: Path, asked: FitRequest, resume: bool) -> None:
    """Refuse to go on from a checkpoint of something else, or to throw it away: hours may be in it."""
    about = read_about(work)
    if about is None:
        return
    anew = f"give what was given then, or remove {work} to start anew"
    if about.depends_on is None:
        raise OutputError(f"the unfinished fit in {work} is of an earlier version; remove {work} to start anew")
    found = changes(about.depends_on, asked.depends_on, _LATER)
    if found:
        raise OutputError(f"the unfinished fit in {work} differs in {', '.join(found)}; {anew}")
    if about.step > asked.config.steps:
        raise OutputError(
            f"the unfinished fit in {work} already did {about.step} steps, more than the {asked.config.steps} that are "
            f"asked for; {anew}"
        )
    if about.ended and about.step < asked.config.steps:
        raise OutputError(
            f"the fit in {work} ended with its best weights, from which no step goes on; give {about.step} steps as "
            f"then, or remove {work} to start anew"
        )
    if not resume:
        log.warning("an unfinished fit of the same is in %s and goes on from step %d", work, about.step)
