"""Who can compute: each module offers the passes of a geometry, or refuses one with a reason."""
