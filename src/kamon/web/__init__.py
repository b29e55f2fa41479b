"""The playground and the HTTP API: everything that `kamon serve` is made of."""
