"""Layers computed in fewer passes over memory than the libraries they come from take."""
