"""Job specs: from what people and programs write into the one canonical `protocol.jobs.Job`."""
