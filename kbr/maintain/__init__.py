"""Looking after backups: is it all there, what is in it. Knows no Kafka."""
