"""Reports and findings in words: splitting reports, mentions, scrubbing, captions by rules. Pure functions of text."""
