"""The reader study: its stages and seals, raters, check sets, presentations, and the append-only log of scores."""
