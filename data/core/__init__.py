"""What every package needs and nothing else: errors, files written whole, progress, SQLite, charts, the console."""
