"""Small modules that several folders share, each named after what it does."""
