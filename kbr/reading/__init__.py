"""Reads the records of a backup: by topic, partition and window, through the blocks that the window needs."""
