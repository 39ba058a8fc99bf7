"""Offline: what mask files hold, how far they coincide, and masks made of masks."""
