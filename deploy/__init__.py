"""Files for running Modelwarden: Kafka, schemas, policies. Carried inside the wheel."""
