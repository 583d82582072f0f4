_base_ = 'mask_rcnn_mambavision_t_3x.py'

model = dict(
    backbone=dict(arch='base', init_cfg=dict(checkpoint='hf://nvidia/MambaVision-B-1K')),
    neck=dict(in_channels=[128, 256, 512, 1024]))
