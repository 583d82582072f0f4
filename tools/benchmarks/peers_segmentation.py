# Config of tools/benchmarks/peers_trained.py for UperNet: the demo config with 400 iterations.
_base_ = '../../configs/upernet_mambavision_demo.py'

max_iters = iterations = 400
train_cfg = dict(max_iters=max_iters, val_begin=max_iters + 1)  # the tool evaluates after training
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=max_iters, T_max=max_iters - 50),
]
train_dataloader = dict(num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = test_cfg = test_evaluator = None
default_hooks = dict(_delete_=True, checkpoint=None, logger=dict(type='LoggerHook', interval=50))
log_level = 'ERROR'
