"""`splattingocc prepare` under the name that people of this field type."""

import sys

from splattingocc.cli import main

# Label workers import this file again
if __name__ == "__main__":
    main(["prepare", *sys.argv[1:]], is_last=True)
