"""The playground and the HTTP API of `kamon serve`."""
