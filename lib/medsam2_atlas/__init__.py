"""Pre-annotates 15 abdominal organs on CT: registered references prompt MedSAM2.

`segment` segments one CT, `segment_many` all CTs of a folder, a table or a PACS.
"""

import sys
from typing import TYPE_CHECKING

from medsam2_atlas.base.lazy import lazy_exports
from medsam2_atlas.base.resource import BUNDLED

if TYPE_CHECKING:
    from medsam2_atlas.batch.api import segment, segment_many

if BUNDLED.is_dir() and str(BUNDLED) not in sys.path:  # last: packages that are installed themselves win
    sys.path.append(str(BUNDLED))

__getattr__ = lazy_exports(__name__, {"segment": "batch.api", "segment_many": "batch.api"})

__all__ = ["segment", "segment_many"]
