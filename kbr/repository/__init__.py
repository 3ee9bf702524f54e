"""Backups in a store: where objects lie, how segments and manifests get there. No Kafka."""
