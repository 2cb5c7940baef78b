"""One module for each kind of engine that needs more than a URL and a key."""
