"""The client without asyncio. All but `_channel.py` and `_watching.py` is made from `_aio`."""
