# Released recipe: box AP 52.3, mask AP 45.2.
_base_ = 'cascade_mask_rcnn_mambavision_t.py'

model = dict(
    backbone=dict(arch='small', init_cfg=dict(checkpoint='hf://nvidia/MambaVision-S-1K')),
    neck=dict(in_channels=[96, 192, 384, 768]))
