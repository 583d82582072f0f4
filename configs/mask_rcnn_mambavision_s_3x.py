_base_ = 'mask_rcnn_mambavision_t_3x.py'

model = dict(
    backbone=dict(arch='small', init_cfg=dict(checkpoint='hf://nvidia/MambaVision-S-1K')),
    neck=dict(in_channels=[96, 192, 384, 768]))
