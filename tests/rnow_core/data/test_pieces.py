"""Pieces of text for display: one a token, together the text."""

from chat_styles import STYLES
from hypothesis import given, settings
from hypothesis import strategies as st


@settings(max_examples=40, deadline=None)
@given(text=st.text(max_size=60), style=st.sampled_from(sorted(STYLES)))
def test_pieces_of_a_text_join_to_it(renderers, text, style):
    renderer = renderers[style]
    ids = renderer.prompt_ids([{"role": "user", "content": text}])
    pieces = renderer.pieces(ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == renderer.decode(ids)


@settings(max_examples=40, deadline=None)
@given(ids=st.lists(st.integers(0, 400), max_size=40))
def test_pieces_of_any_ids_join_to_their_text(renderers, ids):
    renderer = renderers["qwen3"]
    pieces = renderer.pieces(ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == renderer.decode(ids)


def test_a_character_of_several_tokens_is_shown_at_its_last(renderers):
    renderer = renderers["chatml"]
    ids = renderer.encode("a\N{EGYPTIAN HIEROGLYPH A001}b")
    pieces = renderer.pieces(ids)
    assert len(ids) > 3
    assert pieces[0] == "a"
    assert set(pieces[1:-2]) == {""}
    assert pieces[-2:] == ["\N{EGYPTIAN HIEROGLYPH A001}", "b"]
    assert renderer.pieces(ids[:2])[-1] == "\N{REPLACEMENT CHARACTER}"
