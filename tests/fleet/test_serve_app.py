"""The server on Ray Serve: packs as a fleet left them; replicas that are killed or exchanged lose no request."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from sdk import ConceptPack, Personalizer
from sdk.client import Client, ServerError
from sdk.errors import InputError, MissingFileError
from sdk.fleet.storage import Storage
from tests.fleet.killing import kill_child

pytest.importorskip("ray", reason="ray is not installed: pip install 'personalizer-sdk[ray]'")
PROMPT = "photo of a <new1> cat"


@pytest.mark.slow
def test_requests_outlive_replicas(two_packs, tiny_model, tmp_path):
    import ray
    from ray import serve

    from sdk.fleet import serve_app

    place, names = two_packs
    alone = Personalizer.from_pretrained(tiny_model, device="cpu")
    packs = [ConceptPack.from_pretrained(place / "packs" / name) for name in names]
    ray.init(num_cpus=6, log_to_driver=False, include_dashboard=False)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})

        def deploy(**changed):
            serve.run(serve_app(place, model=tiny_model, device="cpu", replicas=2, **changed), route_prefix="/")

        deploy()
        with Client(f"http://127.0.0.1:{port}") as client:

            def asked(seed):
                which = seed % 2
                drawn = client.generate(PROMPT, concepts=names[which], seed=seed, num_inference_steps=2).images[0]
                own = alone.generate(PROMPT, concepts=packs[which], seed=seed, num_inference_steps=2).images[0]
                return int(np.abs(np.asarray(drawn, int) - np.asarray(own, int)).max())

            assert asked(0) <= 2
            assert client.packs() == {name: ["<new1> cat"] for name in names}
            with pytest.raises((MissingFileError, InputError, ServerError), match="no pack"):
                client.generate(PROMPT, concepts="nobody", seed=1, num_inference_steps=2)
            client.add_pack("mine", place / "packs" / names[0])
            assert Storage(place).has("packs/mine/personalizer.json")
            assert np.array_equal(
                *(np.asarray(client.generate(PROMPT, concepts=n, seed=7).images[0]) for n in ("mine", names[0]))
            )
            done, killed = threading.Event(), []

            def disturb():
                try:
                    time.sleep(1)
                    killed.append(kill_child(":Drawer"))
                    deploy(packs_per_replica=3)  # another version: replicas are exchanged while requests come
                finally:
                    done.set()

            disturbing = threading.Thread(target=disturb)
            disturbing.start()
            seeds = iter(range(100, 100_000))
            with ThreadPoolExecutor(4) as pool:
                while not done.is_set():
                    assert max(pool.map(asked, [next(seeds) for _ in range(8)])) <= 2
            disturbing.join()
            assert killed[0]
            client.remove_pack("mine")
            assert not Storage(place).has("packs/mine/personalizer.json")
        answer = httpx.get(f"http://127.0.0.1:{port}/metrics")
        assert 'path="/v1/images/generations",status="200"' in answer.text
    finally:
        serve.shutdown()
        ray.shutdown()


def test_a_deploy_file_is_one_of_ray_serve():
    import yaml
    from ray.serve.schema import ServeDeploySchema

    from sdk.fleet.serving.application import build

    file = Path(__file__).parents[2] / "examples/serve.yaml"
    stated = ServeDeploySchema.model_validate(yaml.safe_load(file.read_text()))
    assert stated.applications[0].import_path == "sdk.fleet.serving.application:build"
    with pytest.raises(InputError, match="have no packs"):
        build({})
    with pytest.raises(InputError, match="PERSONALIZER_TOKENS"):
        build({"packs": "x", "tokens": ["secret"]})
    with pytest.raises(InputError, match="nonsense"):
        build({"packs": "x", "limits": {"nonsense": 1}})
    assert {"packs", "replicas", "gpus"} <= stated.applications[0].args.keys()


@pytest.mark.parametrize(
    "wrong",
    [
        *({"replicas": each} for each in (0, True, (3, 2), (1, 2, 3), "two")),
        *({"gpus": -1}, {"gpus": 1.5}, {"cpus": 0}, {"limits": {}}, {"target_ongoing_requests": 0}),
        *({"tokens": each} for each in ("secret", [5], [" "])),
    ],
)
def test_what_cannot_be_served_is_said(wrong, tmp_path):
    from sdk.fleet import serve_app

    with pytest.raises(InputError):
        serve_app(tmp_path, **wrong)
    with pytest.raises(InputError, match="every replica reaches"):
        serve_app("memory://packs")
