"""Photographs through networks, and networks as pictures."""
