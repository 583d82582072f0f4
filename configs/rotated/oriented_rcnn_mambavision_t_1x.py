# mmrotate's Oriented R-CNN (le90) on DOTA, 12 epochs, with the optimiser of its detectors on Swin-T; 1 GPU x 2 images.
# Needs the onedl packages and onedl-mmrotate. All operators that it uses work without a compiled mmcv.
_base_ = 'mmrotate::oriented_rcnn/oriented-rcnn-le90_r50_fpn_1x_dota.py'

custom_imports = dict(imports=['mmmambavision.openmmlab'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        _delete_=True,
        type='MambaVision',
        arch='tiny',
        window_size=None,
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='hf://nvidia/MambaVision-T-1K')),
    neck=dict(in_channels=[80, 160, 320, 640]))
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(custom_keys={'norm': dict(decay_mult=0.)}))
auto_scale_lr = dict(base_batch_size=2)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2, save_best='dota/mAP', rule='greater'))
