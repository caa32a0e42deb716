"""The host's side: register window, AXI4-Lite, serial line."""
