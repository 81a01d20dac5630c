"""Pre-annotates 15 abdominal organs on CT: registered references prompt MedSAM2."""

import sys

from medsam2_atlas.base.resource import BUNDLED

if BUNDLED.is_dir() and str(BUNDLED) not in sys.path:  # last: packages that are installed themselves win
    sys.path.append(str(BUNDLED))
