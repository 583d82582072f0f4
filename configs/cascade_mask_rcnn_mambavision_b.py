# Released recipe: box AP 52.8, mask AP 45.7.
_base_ = 'cascade_mask_rcnn_mambavision_t.py'

model = dict(
    backbone=dict(arch='base', init_cfg=dict(checkpoint='hf://nvidia/MambaVision-B-1K')),
    neck=dict(in_channels=[128, 256, 512, 1024]))
optim_wrapper = dict(optimizer=dict(lr=2e-4))
