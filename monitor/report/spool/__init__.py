"""The spool: what was observed and is not acknowledged yet, on disk. The training process appends, an uploader removes.

`items.py` opens it; `places.py` finds it.
"""
