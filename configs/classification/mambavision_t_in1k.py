# Released: top-1 82.3. `python tools/test.py THIS hf://nvidia/MambaVision-T-1K` evaluates the released weights.
_base_ = [
    '../_base_/datasets/imagenet.py', '../_base_/schedules/lamb_310e.py', 'mmpretrain::_base_/default_runtime.py'
]

custom_imports = dict(
    imports=['mmmambavision.openmmlab', 'mmmambavision.timm_models'], allow_failed_imports=False)

model = dict(
    type='TimmClassifier',
    model_name='mambavision_tiny',
    num_classes=1000,
    drop_path_rate=0.2,
    loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2, save_best='accuracy/top1', rule='greater'))
