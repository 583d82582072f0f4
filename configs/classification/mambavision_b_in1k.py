# Released: top-1 84.2.
_base_ = 'mambavision_t_in1k.py'

model = dict(model_name='mambavision_base', drop_path_rate=0.3)
warmup, epochs = 35, 300
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6 / 5e-3, by_epoch=True, end=warmup, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=5e-6, by_epoch=True, begin=warmup, end=epochs),
]
optim_wrapper = dict(optimizer=dict(weight_decay=0.075))
