"""What several folders need, each module named after what it does."""
