#!/bin/sh
# gateway_for_compare.sh PORT [limits]
# One worker on PORT in front of the engine on http://127.0.0.1:9101, with everything on that production has on:
# compiled if `make compiled` was run, a hashed key (sk-test), usage, metrics, a JSON access log in a file, keep-alive. Deployment: m.
# limits: also limits of requests, tokens and parallel calls for key and organisation, counted in the Valkey that it starts.
set -eu
port=$1
root=$(cd "$(dirname "$0")/../.." && pwd)
headrace=$root/.compiled/bin/headrace
[ -x "$headrace" ] || headrace=$root/.venv/bin/headrace
[ -x "$headrace" ] || headrace=headrace
folder=${TMPDIR:-/tmp}/headrace-compare-$port
mkdir -p "$folder"
# The hash is that of sk-test with this salt (`headrace keys hash`).
cat >"$folder/config.yaml" <<YAML
server: {port: $port, workers: 1, drain_s: 1}
auth:
  salt: compare-only
  keys:
    - {name: bench, tenant: bench, hash: "sha256:f72246074094a6baa1e53127a3a81eedd275c930ec1f144b2b45526f0c57bfa0"}
pools:
  engines: {urls: ["http://127.0.0.1:9101"]}
deployments:
  m: {variants: {default: {pools: [engines]}}}
telemetry:
  access_log: {format: json, path: "$folder/access.log"}
YAML
[ "${2:-}" != limits ] || cat >>"$folder/config.yaml" <<YAML
tenants:
  bench: {limits: {requests_per_minute: 10000000, tokens_per_minute: 1000000000, tokens_per_day: 100000000000, parallel: 100000}}
limits:
  - {per: [key], requests_per_minute: 10000000, tokens_per_minute: 1000000000}
YAML
exec "$headrace" serve --config "$folder/config.yaml"
