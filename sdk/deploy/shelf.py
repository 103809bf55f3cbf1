"""The packs that were added to an exported model, by name."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..rules.arguments import path as as_path
from ..rules.arguments import text
from ..rules.drawing import one_text_each
from .adapters import Adapter, read_adapter
from .model import ExportedModel

Packs = str | Adapter | Sequence[str | Adapter | None] | None
"""What a call takes as packs: a name or a pack for all prompts, or one for each."""

log = logging.getLogger("sdk")


class Shelf:
    """Packs beside an exported model. Several threads may use one.

    Args:
        model: the exported folder, opened.

    Attributes:
        packs: by name; a mapping that is replaced, never changed.
    """

    def __init__(self, model: ExportedModel) -> None:
        self.model = model
        self.packs: dict[str, Adapter] = {}
        self._lock = threading.Lock()

    def add_pack(self, name: str, path: str | Path) -> None:
        """Add a pack, or replace the one of this name; nothing is rebuilt.

        Raises:
            InputError: a merged export, which holds its pack already.
            MissingFileError, PackError: no file, a damaged one, or no pack.
            BaseModelError: a pack of another base model.
        """
        text(name, "name")
        adapter = self.read_pack(path)
        with self._lock:
            self.packs = {**self.packs, name: adapter}

    def read_pack(self, path: str | Path) -> Adapter:
        """Read a pack of this model without adding it: what is returned can be given as ``concepts`` itself.

        Raises:
            InputError, MissingFileError, PackError, BaseModelError: as :meth:`add_pack`.
        """
        if not self.model.shared:  # before a file is read
            raise InputError("this export has its pack merged in; export with shared=True to add packs")
        adapter = read_adapter(as_path(path, "path"))
        self.model.check_adapter(adapter, path)
        remark = self.model.base.remark(adapter.base)
        if remark is not None:
            log.warning(remark)
        return adapter

    def remove_pack(self, name: str) -> None:
        """Forget a pack."""
        with self._lock:
            self.packs = {key: value for key, value in self.packs.items() if key != name}

    def packs_for(self, count: int, given: Packs) -> list[Adapter | None]:
        """Return the pack of each of so many prompts.

        Args:
            count: of the prompts.
            given: a name or a pack for all, or one (or ``None``) each.

        Raises:
            InputError: an unknown name, or another count.
            BaseModelError: a pack of another base model.
        """
        known = self.packs
        each: Any = [given] * count if isinstance(given, Adapter) else given
        own: dict[int, Adapter] = {}
        if isinstance(each, list | tuple):
            own = {i: pack for i, pack in enumerate(each) if isinstance(pack, Adapter)}
            each = [None if i in own else name for i, name in enumerate(each)]
        for pack in {id(pack): pack for pack in own.values()}.values():
            self.model.check_adapter(pack, "given")
        names = one_text_each(each, count, "pack", None)
        for name in names:
            if name is not None and name not in known:
                raise InputError(f"there is no pack {name!r}; add_pack was called for: {', '.join(known) or 'none'}")
        return [own.get(i) if name is None else known[name] for i, name in enumerate(names)]
