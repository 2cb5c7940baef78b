"""HTTP to the client: requests in, answers out."""

from gateway.http.messages import Flow, Handler, Request, Sink

__all__ = ["Flow", "Handler", "Request", "Sink"]
