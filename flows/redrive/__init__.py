"""Dead letters, repaired, on their way back to their source (`flows.redrive`)."""
