"""Training: recipes, runs, and the distillation of an ensemble into one network."""
