"""Colours maps, and draws colour bars and HTML pages."""
