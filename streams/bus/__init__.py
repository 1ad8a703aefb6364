"""One contract over an in-process bus and Kafka."""
