"""Bytes to objects and back: segments, manifests, compression. No I/O, no Kafka, no storage."""
