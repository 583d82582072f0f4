# Released: top-1 83.3. Its weight decay is not published, so this is the value of tiny.
_base_ = 'mambavision_t_in1k.py'

model = dict(model_name='mambavision_small')
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=240, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
