"""The server on Ray Serve: a front that takes requests, replicas that draw, packs in shared storage."""
