"""`splattingocc test` under the name that people of this field type."""

import sys

from splattingocc.cli import main

if __name__ == "__main__":
    main(["test", *sys.argv[1:]], is_last=True)
