"""The gateware of the cluster, one module a stage."""
