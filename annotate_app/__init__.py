"""The reading room: people score sets of images blinded, in a browser. Knows ``data`` only."""
