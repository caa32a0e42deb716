"""Gateware, instruction set, architecture configuration and the `.sdn` container. Imports no torch."""
