"""The local Replicate: Replicate's v1 HTTP API in front of model servers."""
