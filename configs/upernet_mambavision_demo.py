# A UperNet small enough for two CPU cores, on the data that tools/demo/make_shapes_dataset.py draws.
_base_ = [
    '_base_/models/upernet.py', '_base_/datasets/shapes_ade.py', '_base_/schedules/adamw_160k.py',
    '_base_/segmentation_runtime.py'
]

# Most pixels are background or circle. Without class weights, the network predicts only circles for a long time.
class_weight = [0.15, 0.7, 1.4, 1.0, 1.6]
channels = 64
norm_cfg = dict(type='BN')
model = dict(
    data_preprocessor=dict(size=None, size_divisor=32),
    backbone=dict(
        _delete_=True,
        type='MambaVision',
        arch=dict(dim=32, in_dim=16, depths=(1, 2, 3, 2), num_heads=(2, 2, 4, 8)),
        window_size=None,
        drop_path_rate=0.),
    decode_head=dict(
        in_channels=[32, 64, 128, 256], channels=channels, num_classes=5, norm_cfg=norm_cfg, dropout_ratio=0.,
        loss_decode=dict(class_weight=class_weight)),
    auxiliary_head=dict(
        in_channels=128, channels=channels, num_classes=5, norm_cfg=norm_cfg,
        loss_decode=dict(class_weight=class_weight)))

max_iters = 1250
auto_scale_lr = dict(base_batch_size=8)
train_cfg = dict(max_iters=max_iters, val_interval=250)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=max_iters, T_max=max_iters - 50),
]
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(lr=6e-4, weight_decay=0.05), clip_grad=dict(max_norm=10.))
default_hooks = dict(
    logger=dict(interval=20), checkpoint=dict(interval=250), visualization=dict(interval=1))
randomness = dict(seed=0)
