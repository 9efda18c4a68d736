"""What a person writes: contract, plan, overrides, recipe, device. Knows neither models nor data."""
