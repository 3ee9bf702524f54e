"""Processes: a supervisor, its workers, and the messages between them. Knows no Kafka and no storage."""
