"""Colours, colour bars and HTML pages."""
