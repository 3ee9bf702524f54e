"""Backups in a store: where each object lies, how segments and manifests get there and back. No Kafka."""
