"""`did you mean`: for keys over the whole schema, for words over the choices."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from rnow_core.config.problems import KeyPath
from rnow_core.config.schema_tree import all_keys, keys_of

CUTOFF = 0.6


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like `word`, upper and lower case and `-` and `_` being alike; None when none is."""
    by_form = {_form(candidate): candidate for candidate in candidates}
    matches = get_close_matches(_form(word), by_form, n=1, cutoff=CUTOFF)
    return by_form[matches[0]] if matches else None


def _form(word: str) -> str:
    return word.lower().replace("-", "_")


def for_unknown_key(path: KeyPath) -> str:
    """The hint for a key that does not exist at `path`: its place, its spelling, or the keys there are."""
    key, parent = str(path[-1]), path[:-1]
    homes = [known[:-1] for known in all_keys() if known[-1] == key]
    if homes:
        places = " or ".join(f"`{'.'.join(home)}`" if home else "the top level" for home in homes)
        return f"`{key}` belongs under {places}"
    sibling = nearest(key, keys_of(parent))
    if sibling:
        return f"did you mean `{sibling}`?"
    elsewhere = nearest(key, (known[-1] for known in all_keys()))
    if elsewhere:
        full = next(known for known in all_keys() if known[-1] == elsewhere)
        return f"did you mean `{'.'.join(full)}`?"
    return f"known keys here: {', '.join(keys_of(parent))}"
