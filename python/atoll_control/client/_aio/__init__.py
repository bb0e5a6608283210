"""The client for asyncio. `_sync` is made from this folder by `scripts/make_sync_client.py`, but for the I/O itself."""
