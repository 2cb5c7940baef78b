"""What may be used, exactly, over any number of workers and gateways."""
