"""The response cache on the way of a request."""
