import pytest
from chat_styles import STYLES, write_folder

from rnow_core.data.renderer import Renderer


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """A model folder for each style of chat template."""
    root = tmp_path_factory.mktemp("styles")
    return {style: write_folder(root / style, style) for style in STYLES}


@pytest.fixture(scope="session")
def renderers(folders):
    return {style: Renderer.load(folder) for style, folder in folders.items()}
