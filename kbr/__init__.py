"""kbr: back up Kafka topics and restore them, exactly."""
