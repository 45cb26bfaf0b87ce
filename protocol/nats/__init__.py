"""The parts of `protocol.nats_bus`: the connection, the streams, guarded writes, the log's reader, cells and blobs."""
