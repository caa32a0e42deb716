"""Names that help and completion show. They stand here as text because the modules that define them import PyTorch; a test
compares the two."""

__all__ = ["COSTS", "DEVICES", "LADDERS", "METHODS", "SMOOTH", "STUDY_TASKS", "TASKS"]

METHODS = ("relu", "star", "l1", "hoyer", "transformed-l1", "fatrelu", "channel-thresholds", "arts", "wta", "cats", "dal")
SMOOTH = ("silu", "hardswish", "gelu", "leaky_relu", "prelu")
TASKS = ("digits",)
STUDY_TASKS = ("digits", "digits-wide", "digits-bottleneck", "digits-mixed", "digits-strided", "video", "video-moving")
LADDERS = ("relu", "l1", "hoyer", "transformed-l1", "fatrelu", "channel-thresholds", "arts", "star", "wta", "dal", "cats")
COSTS = ("uniform", "fanout", "cycles")
DEVICES = ("ulx3s-85f", "ecp5-25f", "icebreaker")
