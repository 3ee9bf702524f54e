"""Taking backups: what to fetch, who fetches it, and what the manifest says of it."""
