"""The local Replicate: Replicate's v1 HTTP API, a durable queue and signed webhooks in front of model servers."""
