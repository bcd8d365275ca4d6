"""Programs compiled for machines that are not there: topologies, what they need, what they cost."""
