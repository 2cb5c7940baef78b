"""What a policy does to a trace: the real policy objects on simulated engines, in virtual time."""
