# The released recipe with whole-map windows: nothing is padded, see docs/reproduce.md.
_base_ = 'cascade_mask_rcnn_mambavision_t.py'

model = dict(backbone=dict(window_size=None))
