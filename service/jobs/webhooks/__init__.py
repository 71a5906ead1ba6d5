"""Webhooks: the hosts that they may call, and which are to be called now."""
