"""What a call will use, told before it is admitted."""
