"""One batch under every ablation of a layer: exact, and shared between the units. Knows torch and nothing else of unitlab."""
