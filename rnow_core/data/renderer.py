"""Messages to ids and back, with a model's own tokenizer and chat template; without torch or transformers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from rnow_core.data.chat_template import ChatTemplate, TemplateRefused
from rnow_core.data.fingerprint import fingerprint
from rnow_core.data.pieces import text_pieces
from rnow_core.data.tokenizer_files import TokenizerFiles, read_tokenizer_files
from rnow_core.types import Message, Prompt

Tools = Sequence[Mapping[str, Any]]
"""Tool schemas in the OpenAI form, as chat templates take them."""


def template_options(reasoning_mode: str | None) -> dict[str, Any]:
    """The template variables for `rollout.reasoning_mode`; none when the model's own default is wanted."""
    if reasoning_mode is None:
        return {}
    if reasoning_mode in ("disabled", "none"):
        return {"enable_thinking": False}
    return {"enable_thinking": True, "reasoning_effort": reasoning_mode}


class Renderer:
    """A model's tokenizer and chat template."""

    def __init__(self, files: TokenizerFiles) -> None:
        self.source = files.source
        self.response_template = files.response_template
        self._files = files
        self._tokenizer = files.tokenizer
        self._template = ChatTemplate(files.source, files.templates, files.special_tokens)

    @classmethod
    def load(cls, source: str | Path) -> Renderer:
        """From a model's folder or a Hugging Face id. Raises RnowError naming what is missing."""
        return cls(read_tokenizer_files(source))

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Tools | None = None,
        add_generation_prompt: bool = True,
        **options: Any,
    ) -> str:
        """The conversation as text, special tokens written out. Raises TemplateRefused."""
        return self._template.render(messages, tools, add_generation_prompt, options)

    def prompt_ids(
        self,
        messages: Sequence[Message],
        *,
        tools: Tools | None = None,
        add_generation_prompt: bool = True,
        **options: Any,
    ) -> tuple[int, ...]:
        """The ids of `render`; equal to `apply_chat_template`, so a bos comes from the template alone."""
        return self.encode(
            self.render(messages, tools=tools, add_generation_prompt=add_generation_prompt, **options)
        )

    def render_row(
        self, prompt: Prompt, *, tools: Tools | None = None, **options: Any
    ) -> tuple[str, tuple[int, ...]]:
        """Text and ids of a row's prompt; TemplateRefused names the row's file and line."""
        try:
            text = self.render(prompt.messages, tools=tools, **options)
        except TemplateRefused as error:
            raise TemplateRefused(f"{prompt.file}:{prompt.line}: {error.message}", error.hint) from error
        return text, self.encode(text)

    def encode(self, text: str) -> tuple[int, ...]:
        """The ids of a text; special tokens in it count as such, and none are added."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_with_offsets(self, text: str) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
        """The ids of a text, and for each the characters (start, end) that it covers."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return tuple(encoding.ids), encoding.offsets

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of the ids; bytes that are not UTF-8 become replacement characters."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def harmless(self, text: str) -> str:
        """The text with a gap in everything that would be read as a special token, such as the end of a turn.

        For what comes from outside: a web page must not end a tool's turn and speak as the assistant.
        """
        return self._special_pattern.sub(lambda found: f"{found[0][:1]} {found[0][1:]}", text)

    @cached_property
    def _special_pattern(self) -> re.Pattern[str]:
        added = self._tokenizer.get_added_tokens_decoder().values()
        words = sorted((token.content for token in added if token.special), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, words)) or r"(?!)")

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """One piece of text per id, for display."""
        return text_pieces(ids, self.decode)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of the tokens that the tokenizer marks as special: text around one never merges across it."""
        added = self._tokenizer.get_added_tokens_decoder()
        return frozenset(i for i, token in added.items() if token.special)

    @cached_property
    def eos_id(self) -> int | None:
        """The id of the tokenizer's eos token."""
        eos = self._files.special_tokens.get("eos_token")
        return None if eos is None else self._tokenizer.token_to_id(eos)

    @cached_property
    def end_of_turn_id(self) -> int | None:
        """The special token that the template writes behind an assistant's text, or None."""
        probe = "probe"
        messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": probe}]
        try:
            text = self.render(messages, add_generation_prompt=False)
        except TemplateRefused:
            return None
        ids = self.encode(text[text.rfind(probe) + len(probe) :] if probe in text else "")
        return next((i for i in ids if i in self.special_ids), None)

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end a reply: the template's end of turn, the tokenizer's eos, the folder's eos ids."""
        ids = (self.end_of_turn_id, self.eos_id, *self._files.generation_eos)
        return tuple(dict.fromkeys(i for i in ids if i is not None))

    @cached_property
    def vocab_size(self) -> int:
        """The highest id plus one. A model's matrix may have more rows than that (padding)."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def fingerprint(self) -> str:
        """Equal for two models exactly when their tokenizers are the same; see `fingerprint.fingerprint`."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint(self._tokenizer)
