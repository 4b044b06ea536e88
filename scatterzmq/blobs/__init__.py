"""Blobs over the network: fetched from peers that have them, written by clients elsewhere."""
