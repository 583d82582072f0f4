# ImageNet-1K schedule of MambaVision's classifiers, for 32 GPUs x 128 images: LAMB, 300 epochs of cosine decay, 10
# epochs at the final rate, exponential moving average of the weights. MESA distillation is missing in mmpretrain.
warmup, epochs, cooldown = 20, 300, 10
optim_wrapper = dict(
    type='AmpOptimWrapper',
    loss_scale='dynamic',
    clip_grad=dict(max_norm=5.),
    optimizer=dict(type='Lamb', lr=5e-3, eps=1e-8, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0., flat_decay_mult=0.))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6 / 5e-3, by_epoch=True, end=warmup, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=5e-6, by_epoch=True, begin=warmup, end=epochs),
]
custom_hooks = [dict(type='EMAHook', momentum=2e-4, priority='ABOVE_NORMAL')]
train_cfg = dict(by_epoch=True, max_epochs=epochs + cooldown, val_interval=10)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=4096)
