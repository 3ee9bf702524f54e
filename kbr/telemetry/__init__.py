"""What a run tells: events, log lines, progress. Pure values and sinks; knows no Kafka and no storage."""
