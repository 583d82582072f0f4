# The data set that tools/demo/make_shapes_dataset.py draws, in COCO's layout.
_base_ = 'mmdet::_base_/datasets/coco_instance.py'

classes = ('circle', 'triangle', 'rectangle', 'star')
dataset = dict(
    data_root='data/shapes/coco/',
    metainfo=dict(classes=classes, palette=[(220, 20, 60), (0, 130, 200), (60, 180, 75), (255, 160, 0)]))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale_factor=1., keep_ratio=True),  # records the scale factor that mask pasting needs
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size=4, num_workers=1, dataset=dict(**dataset, pipeline=train_pipeline))
val_dataloader = dict(batch_size=10, num_workers=1, dataset=dict(**dataset, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=dataset['data_root'] + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator
