# Released recipe: mIoU 49.1; 16 GPUs x 1 image.
_base_ = 'upernet_mambavision_t.py'

model = dict(
    backbone=dict(arch='base', init_cfg=dict(checkpoint='hf://nvidia/MambaVision-B-1K')),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512))
