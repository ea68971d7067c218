"""Whatever a file holds, it is read or its faults are told."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import yaml

from pointsman.gateway.settings import InvalidSettingsError, load_settings
from pointsman.gateway.settings.schema import ModelSettings, RouterSettings, Settings, UpstreamSettings

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
TEXTS = st.sampled_from(["http://[", "http://x:99999", "openai/x", "groq/y", "${", "${A", "os.environ/=", "sqlite:///"])
SECTIONS = (Settings, UpstreamSettings, ModelSettings, RouterSettings)
NAMES = st.sampled_from(sorted({name for section in SECTIONS for name in section.model_fields})) | st.text(max_size=4)
VALUES = st.recursive(
    SCALARS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=20,
)
PARAMETERS = ["api_base", "api_key", "headers", "timeout", "max_retries", "organization", "custom_llm_provider"]
FACTS = ["mode", "max_input_tokens", "supports_vision", "base_model", "input_cost_per_token", "output_cost_per_token"]
ENTRIES = st.fixed_dictionaries(
    {
        "model_name": st.sampled_from(["a", "b"]) | VALUES,
        "litellm_params": st.dictionaries(st.sampled_from(PARAMETERS), VALUES).map(
            lambda parameters: {"model": "openai/x", **parameters}
        ),
        "model_info": st.dictionaries(st.sampled_from(FACTS), VALUES),
    }
)


@hypothesis.settings(max_examples=200, deadline=None, derandomize=True, database=None)
@hypothesis.given(
    values=st.dictionaries(NAMES, VALUES, max_size=5), model_list=st.lists(ENTRIES, max_size=2) | st.none()
)
def test_whatever_a_file_holds_it_is_read_or_its_faults_are_told(tmp_path_factory, values, model_list):
    """No content of a file raises anything else, or leaves a fault without a rule."""
    path = tmp_path_factory.getbasetemp() / "pointsman.yaml"
    path.write_text(yaml.safe_dump(values if model_list is None else {**values, "model_list": model_list}))
    try:
        load_settings(path)
    except InvalidSettingsError as error:
        faults = error.faults
    else:
        faults = None
    assert faults is None or all(fault.rule for fault in faults)
    assert faults != ()
