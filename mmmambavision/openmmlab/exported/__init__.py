"""Files that tools/export.py wrote in the place of models, for mmdet's and mmseg's evaluation."""
