"""Measurements that others can repeat. Not tests: nothing here passes or fails by the clock."""
