"""Putting backups back: what goes where, what stands against it, and who sends it."""
