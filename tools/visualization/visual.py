"""Draw the predicted grids of one scene of a prediction cache: visual.py work_dirs/x/output/scene-xxxx"""

import sys
from pathlib import Path

from splattingocc.pictures import draw_cached_grids

if len(sys.argv) != 2:
    sys.exit(__doc__)
try:
    print(*draw_cached_grids(Path(sys.argv[1])), sep="\n")
except ValueError as error:
    sys.exit(f"visual.py: {error}")
