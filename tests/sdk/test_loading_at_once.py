"""Models that several threads load at once."""

from __future__ import annotations

import threading

import torch

from sdk import Personalizer


def test_threads_may_load_models_at_once(tiny_model):
    loaded = []

    def load():
        loaded.extend(Personalizer.from_pretrained(tiny_model, device="cpu") for _ in range(4))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loaded) == 16
    # What loading changes of torch for the while is put back, in whatever order the threads came.
    assert torch.nn.Linear(2, 2).weight.device.type == "cpu"
