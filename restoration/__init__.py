"""The engine: a photo in, the same photo with its faces restored and its background enlarged out.

Knows pixels and tensors; imports no Cog, no HTTP, no Docker. Start reading at `restoration.restorer`.
"""
