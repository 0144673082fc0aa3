"""Programs that run inside containers, sent as text: Python 3.8 or newer, standard library, one file each."""
