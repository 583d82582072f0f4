"""Prediction on images and videos: inputs, predictor, result files and web page."""

__all__ = []
