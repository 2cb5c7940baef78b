"""Which error codes metrics tell apart; any other is `other`."""

from __future__ import annotations

from typing import Final

ERRORS: Final = frozenset(
    {
        "body_too_large",
        "cache_entry_not_found",
        "cache_off",
        "client_disconnected",
        "concurrency",
        "conflict",
        "connect_timeout",
        "context_length_exceeded",
        "directory_stale",
        "expired_token",
        "headers_too_large",
        "idle_timeout",
        "input_tokens_limit",
        "insufficient_quota",
        "internal_error",
        "invalid_api_key",
        "invalid_cache_ttl",
        "invalid_json",
        "invalid_request",
        "invalid_sensitivity",
        "invalid_token",
        "invalid_type",
        "issuer_unavailable",
        "limits_unavailable",
        "malformed_http",
        "method_not_allowed",
        "missing_api_key",
        "missing_required_parameter",
        "model_not_allowed",
        "model_not_found",
        "network_not_allowed",
        "no_healthy_backend",
        "not_admin",
        "not_cached",
        "not_found",
        "output_tokens_limit",
        "rate_limit_exceeded",
        "request_timeout",
        "requests_limit",
        "residency_violation",
        "server_is_overloaded",
        "shutting_down",
        "tokens_limit",
        "total_timeout",
        "ttft_timeout",
        "unsupported_content_encoding",
        "unsupported_http_version",
        "unsupported_media_type",
        "unsupported_operation",
        "upstream_auth",
        "upstream_bad_body",
        "upstream_died",
        "upstream_empty_answer",
        "upstream_error",
        "upstream_model_not_found",
        "upstream_protocol_error",
        "upstream_timeout",
        "write_timeout",
    }
)
"""Values of the labels `error` and `error_type`: the gateway's own codes, because engines make up theirs.

Any other counts as `other`, and in the metrics and spans of the conventions as `_OTHER`.
"""
