# mmdet's RTMDet-Ins-l with the changes of mmdet's RTMDet-l on Swin-B and ConvNeXt-B: 100 epochs, 4 GPUs x 32 images,
# group norms, and layer decay. The stem has 0.85 ** 17 of the learning rate. ConvNeXt has fewer steps: 0.8 ** 13.
_base_ = 'mmdet::rtmdet/rtmdet-ins_l_8xb32-300e_coco.py'

custom_imports = dict(imports=['mmmambavision.openmmlab'], allow_failed_imports=False)

norm_cfg = dict(type='GN', num_groups=16)  # not 32 as in mmdet, because 32 does not divide the neck's 80 channels
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

max_epochs, stage2_num_epochs, base_lr = 100, 10, 0.001
auto_scale_lr = dict(base_batch_size=128)
train_cfg = dict(max_epochs=max_epochs, dynamic_intervals=[(max_epochs - stage2_num_epochs, 1)])
optim_wrapper = dict(
    constructor='LayerDecayOptimWrapperConstructor',
    optimizer=dict(lr=base_lr),
    paramwise_cfg=dict(layer_decay_rate=0.85))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-5, by_epoch=False, begin=0, end=1000),
    dict(
        type='CosineAnnealingLR',
        eta_min=base_lr * 0.05,
        begin=max_epochs // 2,
        end=max_epochs,
        T_max=max_epochs // 2,
        by_epoch=True,
        convert_to_iter_based=True),
]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2, save_best='coco/bbox_mAP', rule='greater'))
custom_hooks = [
    dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.0002, update_buffers=True, priority=49),
    dict(
        type='PipelineSwitchHook',
        switch_epoch=max_epochs - stage2_num_epochs,
        switch_pipeline={{_base_.train_pipeline_stage2}}),
]
