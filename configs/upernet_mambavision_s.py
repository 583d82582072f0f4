# Released recipe: mIoU 48.2; 8 GPUs x 2 images.
_base_ = 'upernet_mambavision_t.py'

model = dict(
    backbone=dict(arch='small', window_size=(160, 56), init_cfg=dict(checkpoint='hf://nvidia/MambaVision-S-1K')),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384))
train_dataloader = dict(batch_size=2)
optim_wrapper = dict(optimizer=dict(lr=6e-5))
