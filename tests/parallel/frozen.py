"""Imported last by the server that forks the processes: none of them looks for garbage in what all have imported.

That takes a third of a second each time, and a training looks for garbage when it begins, and when it ends.
"""

from __future__ import annotations

import gc

gc.collect()
gc.freeze()
