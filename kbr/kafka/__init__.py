"""Kafka: the only place that imports confluent_kafka, and with kbr_codec the only one that knows librdkafka."""
