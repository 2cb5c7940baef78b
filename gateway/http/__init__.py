"""HTTP to the client: requests in, answers out."""

from gateway.http.messages import Flow, Request, Sink

__all__ = ["Flow", "Request", "Sink"]
