"""Another name for generate_distillation_data.py."""

import sys

from generate_distillation_data import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
