"""Kinds of sources: folders, RGB-D pairs, manifests, ArrayRecord data sets."""
