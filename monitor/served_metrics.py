"""The numbers of what an engine serves, by their names among what a trainer logs, where any service takes them.

A service that knows them makes metrics of their own of them, which no other log of the trainer's displaces.
"""

from __future__ import annotations

DIFFERING = "served_differing_groups"
GROUPS = "served_groups"
STEP = "served_step"

NAMES = (DIFFERING, GROUPS, STEP)
"""Groups that are not served as they are trained, how many were compared, and the step that is served."""
