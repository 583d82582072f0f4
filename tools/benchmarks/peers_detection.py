# Config of tools/benchmarks/peers_trained.py for Cascade Mask R-CNN: 4 epochs.
_base_ = 'peers_cascade.py'

max_epochs = 4
iterations = 400  # 4 epochs of 400 images, with a batch size of 4
train_cfg = dict(max_epochs=max_epochs, val_begin=max_epochs + 1)  # the tool evaluates after training
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0, T_max=max_epochs, convert_to_iter_based=True),
]
train_dataloader = dict(num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = test_cfg = test_evaluator = None
default_hooks = dict(_delete_=True, checkpoint=None, logger=dict(type='LoggerHook', interval=50))
log_level = 'ERROR'
