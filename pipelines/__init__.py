"""Jobs: each reads a configuration and does one thing."""
