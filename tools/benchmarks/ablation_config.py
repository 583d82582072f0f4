# Config of tools/benchmarks/ablation.py: a nano network on the data of make_shapes_dataset.py --task context. The class
# of a shape depends on a distant marker.
_base_ = '../../configs/upernet_mambavision_demo.py'

classes = ('background', 'circle', 'triangle', 'rectangle (light)', 'star (light)', 'rectangle (dark)', 'star (dark)',
           'light marker', 'dark marker')
metainfo = dict(classes=classes, palette=[
    [60, 60, 60], [220, 20, 60], [0, 130, 200], [60, 180, 75], [255, 160, 0], [30, 90, 40], [130, 80, 0],
    [255, 255, 255], [0, 0, 0]])
class_weight = [0.2, *[1.] * 8]  # most pixels are background
model = dict(
    backbone=dict(arch=dict(dim=16, in_dim=16, depths=(1, 1, 4, 2), num_heads=(2, 2, 4, 8))),
    # Only 1x1 convolutions, so that only the backbone exchanges information between pixels.
    decode_head=dict(
        _delete_=True, type='SegformerHead', in_channels=[32, 64, 128], in_index=[1, 2, 3], channels=48,
        num_classes=9, norm_cfg=dict(type='BN'), dropout_ratio=0., align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', class_weight=class_weight)),
    auxiliary_head=None)

max_iters = 800
train_cfg = dict(max_iters=max_iters, val_begin=max_iters + 1)  # the tool evaluates after training
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=max_iters // 20),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=max_iters // 20, end=max_iters),
]
optim_wrapper = dict(optimizer=dict(lr=1e-3))
train_dataloader = dict(batch_size=8, num_workers=0, persistent_workers=False, dataset=dict(metainfo=metainfo))
val_dataloader = dict(batch_size=20, num_workers=0, persistent_workers=False, dataset=dict(metainfo=metainfo))
test_dataloader = test_cfg = test_evaluator = None
default_hooks = dict(_delete_=True, checkpoint=None, logger=dict(type='LoggerHook', interval=50))
log_level = 'ERROR'
shapes = dict(train=1600, val=100, size=128)  # options of the data set
