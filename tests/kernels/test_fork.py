"""Processes forked from one that has computed: the kernels work there, on the thread that is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from sdk.kernels import available_backends

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system knows no fork")
READY = [name for name, status in available_backends().items() if status == "ready" and name != "triton"]
PATIENCE = 120  # seconds: a child that waits for threads it has lost waits for ever

# Large enough that torch spreads its own operations over its threads as well.
COMPUTE = """
import os, sys
import torch
from sdk.kernels import attention_with_maps, calibration_loss

torch.set_num_threads(2)
query, key, value = (torch.randn(2, 8, n, 64, requires_grad=True) for n in (256, 77, 77))
tokens = torch.tensor([[1, 2, 4, 5]] * 2)

def step(backend):
    out, maps = attention_with_maps(query, key, value, tokens, backend=backend)
    loss = calibration_loss(maps.unflatten(-1, (16, 16)), backend=backend).sum()
    grads = torch.autograd.grad(out.square().sum() + loss, [query, key, value])
    return [out.detach(), maps.detach(), *grads]

def in_child(function):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if function() else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""

OF_A_BACKEND = """
before = step(sys.argv[1])
in_child(lambda: all(torch.allclose(a, b, atol=1e-4) for a, b in zip(step(sys.argv[1]), before)))
assert all(torch.equal(a, b) for a, b in zip(step(sys.argv[1]), before)), "the parent goes on as before"
assert torch.get_num_threads() == 2
"""

OF_THE_LIBRARY = """
inputs = [x.detach() for x in (query, key, value)]
before = torch.ops.personalizer.cpp_attention(*inputs, tokens, 0.1)

def told_to_use_more_threads():
    torch.set_num_threads(2)
    return bytes(torch.ops.personalizer.cpp_attention(*inputs, tokens, 0.1)[0].numpy()) == expected

expected = bytes(before[0].numpy())
in_child(told_to_use_more_threads)
"""

OF_NUMPY = """
from sdk.bindings import arrays
inputs = [x.detach().numpy() for x in (query, key, value)]
expected = arrays.attention_with_maps(*inputs, tokens.numpy(), threads=2)[0]
step("reference")
in_child(lambda: (arrays.attention_with_maps(*inputs, tokens.numpy(), threads=2)[0] == expected).all())
"""

WITH_MULTIPROCESSING = """
import multiprocessing
expected = step(sys.argv[1])[1].numpy()

def work(_):
    return step(sys.argv[1])[1].numpy()

with multiprocessing.get_context("fork").Pool(2) as pool:
    for maps in pool.map(work, range(4)):
        assert abs(maps - expected).max() < 1e-5
"""


def run(code, *arguments):
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "TRITON_INTERPRET")}
    environment["CUDA_VISIBLE_DEVICES"] = ""  # beside a GPU torch's autograd refuses to compute in a forked child
    command = [sys.executable, "-c", COMPUTE + code, *arguments]
    # In a session of their own: should a child hang, it is ended too.
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        _, errors = process.communicate(timeout=PATIENCE)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, errors


@pytest.mark.parametrize("backend", READY)
def test_a_child_computes_what_its_parent_did(backend):
    run(OF_A_BACKEND, backend)


@pytest.mark.parametrize("backend", READY)
def test_multiprocessing_with_fork(backend):
    run(WITH_MULTIPROCESSING, backend)


@pytest.mark.skipif("cpp" not in READY, reason="no compiled CPU library")
@pytest.mark.parametrize("code", [OF_THE_LIBRARY, OF_NUMPY], ids=["operator", "numpy"])
def test_the_library_hands_no_work_to_lost_threads(code):
    run(code)
