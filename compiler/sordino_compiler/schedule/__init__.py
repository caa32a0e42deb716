"""Where values lie and how a layer uses the cores: layout, folding, allocation, tiling, and the search of the fastest mapping."""
