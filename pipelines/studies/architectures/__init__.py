"""The architectures side by side: on a simulated log, before simulated users, and on real impressions."""
