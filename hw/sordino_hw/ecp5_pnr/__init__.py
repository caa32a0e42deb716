"""Place and route for the ECP5: a placer and a router for netlists that nextpnr packed."""
