"""Fingerprints of weights, by which those that an engine serves are compared with those that train."""
