"""The admin API: every route, who may use it, and the OpenAPI document of all of them."""
