"""Draw the predicted grids of one scene of a prediction cache: visual.py work_dirs/x/output/scene-xxxx"""

import sys
from pathlib import Path

from splattingocc.cli.ending import ending_well

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__)
    with ending_well("visual.py", is_last=True):
        from splattingocc.pictures import draw_cached_grids

        print(*draw_cached_grids(Path(sys.argv[1])), sep="\n")
