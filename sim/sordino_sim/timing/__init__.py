"""The timing model: predicts the RTL's cycles exactly."""
