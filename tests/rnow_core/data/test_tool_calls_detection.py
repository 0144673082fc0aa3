"""Which form a model's calls have: from its template, by name, or an error that says what to do."""

import pytest
from chat_styles import STYLES, write_folder

from rnow_core.data.renderer import Renderer
from rnow_core.data.tool_calls.formats import FormatError, detect_format, named_format

FORMS = {
    "qwen25": "hermes",
    "qwen3": "hermes",
    "qwen3_coder": "qwen3_coder",
    "llama": "llama3_json",
    "mistral": "mistral",
    "mistral11": "mistral",
    "deepseek": "deepseek",
    "deepseek31": "deepseek",
}


@pytest.mark.parametrize("style", FORMS)
def test_the_form_is_found_from_the_template(tool_renderers, style):
    """The example that a model is shown after a mistake is in its own template's words."""
    form = detect_format(tool_renderers[style])
    assert form.name == FORMS[style]
    prompt = tool_renderers[style].render([{"role": "user", "content": "x"}])
    (call,) = form.parse(form.expected, prompt=prompt).calls
    assert (call.name, call.arguments) == ("tool_name", {"argument": "value"})


def test_a_generation_prompt_that_opens_the_reasoning(tmp_path):
    template = STYLES["qwen3"][0].replace(
        "{{- '<|im_start|>assistant\\n' }}\n    {%- if enable_thinking is",
        "{{- '<|im_start|>assistant\\n<think>\\n' }}\n    {%- if enable_thinking is",
    )
    renderer = Renderer.load(write_folder(tmp_path, "qwen3", chat_template=template))
    prompt = renderer.render([{"role": "user", "content": "x"}])
    assert prompt.endswith("<think>\n")
    form = detect_format(renderer)
    assert form.expected.startswith("<tool_call>")
    reply = form.parse(f"so\n</think>\n\n{form.expected}", prompt=prompt)
    assert (reply.reasoning, len(reply.calls)) == ("so", 1)


def test_a_template_without_tools(tmp_path):
    with pytest.raises(FormatError, match="does not show the model its tools"):
        detect_format(Renderer.load(write_folder(tmp_path, "chatml")))


def test_a_template_whose_calls_nothing_reads(tmp_path):
    template = STYLES["qwen3"][0].replace("<tool_call>", "<call>")
    renderer = Renderer.load(write_folder(tmp_path, "qwen3", chat_template=template))
    with pytest.raises(FormatError, match=r"no parser reads its calls: it writes '<call>") as caught:
        detect_format(renderer)
    assert "hermes" in caught.value.hint
    assert named_format("hermes", renderer).name == "hermes"
    with pytest.raises(FormatError, match="unknown form of tool calls 'qwen'"):
        named_format("qwen", renderer)
    with pytest.raises(FormatError, match="has no response_template"):
        named_format("response_template", renderer)
