"""From a run to scores of new recordings."""
