"""Predictions on images and videos: the inputs, the predictor, and the files or the web page with the results."""

__all__ = []
