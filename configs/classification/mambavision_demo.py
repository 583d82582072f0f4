# A classifier small enough for two CPU cores, on shapes that tools/demo/ draws.
_base_ = ['../_base_/datasets/shapes_imagefolder.py', 'mmpretrain::_base_/default_runtime.py']

custom_imports = dict(
    imports=['mmmambavision.openmmlab', 'mmmambavision.timm_models'], allow_failed_imports=False)

model = dict(
    type='TimmClassifier',
    model_name='mambavision_tiny',
    arch=dict(dim=32, in_dim=16, depths=(1, 1, 2, 2), num_heads=(2, 2, 4, 8)),
    window_size=(None, None),
    num_classes=4,
    drop_path_rate=0.,
    loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'))

max_epochs = 30
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=1)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05), clip_grad=dict(max_norm=5.),
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0., flat_decay_mult=0.))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0, T_max=max_epochs, convert_to_iter_based=True),
]
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(max_keep_ckpts=2, save_best='accuracy/top1', rule='greater'),
    visualization=dict(rescale_factor=4.))  # readable text
randomness = dict(seed=0)
