"""Whatever JSON, TOML or a program can hold for settings, nouns and messages: taken, or refused by the package."""

from __future__ import annotations

import json
import unicodedata

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdk import FitConfig
from sdk.concepts import Concept, resolve_concepts
from sdk.errors import InputError, SdkError
from sdk.methods import METHODS

# The same examples on every machine, and nothing kept on disk.
always = settings(derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
names = st.sampled_from(sorted(FitConfig().to_dict())) | st.sampled_from(sorted(METHODS)) | st.text(max_size=8)


@always
@given(values=st.dictionaries(names, plain, max_size=3) | plain, method=st.sampled_from(sorted(METHODS)))
def test_settings_are_taken_and_come_back_or_are_refused(values, method):
    try:
        made = FitConfig.from_dict(values, method)
    except InputError:
        return
    written = json.dumps(made.to_dict(), allow_nan=False)  # what was taken is finite
    assert FitConfig.from_dict(json.loads(written), method).to_dict() == made.to_dict()


@always
@given(
    given_=st.lists(st.text() | plain | st.builds(Concept, st.text() | plain, st.text() | plain), max_size=3) | plain
)
def test_concepts_are_taken_as_text_or_refused(given_):
    try:
        resolved = resolve_concepts(given_)
    except InputError:
        return
    assert all(isinstance(c.noun, str) and c.noun.strip() and c.token.startswith("<") for c in resolved)
    assert len({c.token for c in resolved}) == len(resolved)


@always
@given(st.text() | st.binary() | st.integers() | st.text(min_size=600, max_size=5000))
def test_every_message_can_be_shown(text):
    shown = str(SdkError(text))
    assert len(shown) <= 600
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in shown)
