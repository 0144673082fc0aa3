"""How many likeliest ids a server is asked for. Standard library only: `validate` reads it where no torch is."""

MAX_TOP = 128
"""A larger K adds next to no probability, and every id costs a JSON object a position."""

MAX_ENTRIES = 8_000_000
"""JSON objects of one call of `top`: 0.7 GB at 83 bytes, and minutes of the server's one front-end process (30 us each
were measured on two busy cores)."""
