# mmrotate's Rotated RTMDet-l (le90) on DOTA, 36 epochs, 2 GPUs x 4 images, with group norms and layer decay as in our
# RTMDet-Ins. Needs the onedl packages and onedl-mmrotate. All operators that it uses work without a compiled mmcv.
_base_ = 'mmrotate::rotated_rtmdet/rotated_rtmdet_l-3x-dota.py'

custom_imports = dict(imports=['mmmambavision.openmmlab'], allow_failed_imports=False)

norm_cfg = dict(type='GN', num_groups=16)
model = dict(
    use_syncbn=False,
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
    backbone=dict(
        _delete_=True,
        type='MambaVision',
        arch='tiny',
        window_size=None,
        out_indices=(1, 2, 3),
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='hf://nvidia/MambaVision-T-1K')),
    neck=dict(in_channels=[160, 320, 640], norm_cfg=dict(_delete_=True, **norm_cfg)),
    bbox_head=dict(norm_cfg=dict(_delete_=True, **norm_cfg)))
optim_wrapper = dict(
    constructor='LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.85))
auto_scale_lr = dict(base_batch_size=8)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2, save_best='dota/mAP', rule='greater'))
