"""What one does with an experiment: train it, predict with it, score it. Only `scoring` may see 3D truth."""
