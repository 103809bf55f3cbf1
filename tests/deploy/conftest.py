"""The tiny model, exported once for all processes that test: it takes half a minute."""

from __future__ import annotations

import pytest
from filelock import FileLock


@pytest.fixture(scope="session")
def shared_export(tiny_model, tmp_path_factory, worker_id):
    """Return the folder of a shared export of the tiny model, which is the same in every process; left as it is."""
    from sdk import Personalizer

    own = tmp_path_factory.getbasetemp()
    root = own if worker_id == "master" else own.parent
    folder = root / "shared-export"
    with FileLock(root / "shared-export.lock"):
        if not folder.exists():
            Personalizer.from_pretrained(tiny_model, device="cpu").export_onnx(folder, shared=True)
    return folder
