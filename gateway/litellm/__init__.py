"""A LiteLLM proxy configuration becomes one of ours."""
