"""What OpenAPI says the server takes, and what it does not, thrown at the running server: never a 500."""

from __future__ import annotations

import pytest

pytest.importorskip("schemathesis", reason="schemathesis is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")

import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi import checks

from sdk import Personalizer
from sdk.library import Library
from sdk.serve import Fitter, Limits, TorchPainter, create_app
from tests.serve.running import running

pytestmark = pytest.mark.slow
# No schema says which words a pack knows; fields of other servers are taken and not looked at.
NOT_LOOKED_AT = [checks.positive_data_acceptance, checks.negative_data_rejection]
LIMITS = Limits(body=1 << 20, images=2, steps=2, line=1000, seconds=30)


@pytest.fixture(scope="module", params=["exported", "torch"])
def server(request, shared_export, tiny_model, tmp_path_factory):
    from sdk.serve import ExportedPainter

    with Library(tmp_path_factory.mktemp("library")) as library:
        if request.param == "exported":
            app = create_app(library, ExportedPainter(shared_export, "onnxruntime"), limits=LIMITS)
            with running(app) as client:
                yield str(client.base_url)
            return
        model, learner = (Personalizer.from_pretrained(tiny_model, device="cpu") for _ in range(2))
        with Fitter(learner, library) as fitter:
            app = create_app(library, TorchPainter(model), limits=LIMITS, fitter=fitter)
            with running(app) as client:
                yield str(client.base_url)


def test_nothing_that_is_sent_breaks_it(server):
    schema = schemathesis.openapi.from_url(f"{server}/openapi.json")
    seen = {}
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path.endswith("/events"):  # ends when a fit does
            continue

        def ask(case):
            answer = case.call(base_url=server, timeout=60)
            seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
            case.validate_response(answer, excluded_checks=NOT_LOOKED_AT)

        strategy = schemathesis_strategy(operation)
        quick = settings(
            max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate],
            database=None,
        )  # fmt: skip
        from hypothesis import given

        quick(given(strategy)(ask))()
    print(seen)
    assert not [status for status in seen if status >= 500]


def schemathesis_strategy(operation):
    """What fits the schema, and what does not."""
    from schemathesis import GenerationMode

    return operation.as_strategy(generation_mode=GenerationMode.POSITIVE) | operation.as_strategy(
        generation_mode=GenerationMode.NEGATIVE
    )
