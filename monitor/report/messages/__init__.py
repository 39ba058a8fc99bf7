"""What a run says of itself and of its training, as messages of the wire contract that a service takes."""
