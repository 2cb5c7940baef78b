"""Classic model servers: they take text and give text, and know neither messages nor tokens."""
