"""The parts of rin_experiment.py, in order: text, plan, training, workers, kept, figures, shown."""
