import pytest
from chat_styles import STYLES, write_folder
from tool_styles import TOOL_STYLES

from rnow_core.data.renderer import Renderer


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """A model folder for each style of chat template."""
    root = tmp_path_factory.mktemp("styles")
    return {style: write_folder(root / style, style) for style in STYLES}


@pytest.fixture(scope="session")
def renderers(folders):
    return {style: Renderer.load(folder) for style, folder in folders.items()}


@pytest.fixture(scope="session")
def tool_renderers(renderers, tmp_path_factory):
    """A renderer for each style whose template writes tool calls."""
    root = tmp_path_factory.mktemp("tool_styles")
    more = {style: Renderer.load(write_folder(root / style, style)) for style in TOOL_STYLES}
    return {**{style: renderers[style] for style in ("qwen3", "llama", "mistral")}, **more}
