"""Does a reply give the right answer? Pure functions, and (in `builtin`) the rewards made of them."""
