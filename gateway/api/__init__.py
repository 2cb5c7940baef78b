"""Every route that is not a model call, and the OpenAPI document of all of them."""
