# The released Cascade R-CNN without masks, for objects of a few pixels: images of up to 2000x1200 as in mmdet's ATSS
# with DyHead on Swin-L, additional anchors of 16 pixels, and up to 500 detections per image.
_base_ = [
    '_base_/models/cascade_mask_rcnn.py', 'mmdet::_base_/datasets/coco_detection.py',
    '_base_/schedules/adamw_1x.py', '_base_/coco_runtime.py'
]

model = dict(
    backbone=dict(window_size=None),
    rpn_head=dict(anchor_generator=dict(scales=[4, 8])),
    roi_head=dict(mask_roi_extractor=None, mask_head=None),
    test_cfg=dict(rpn=dict(nms_pre=2000, max_per_img=2000), rcnn=dict(max_per_img=500)))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomResize', scale=[(2000, 480), (2000, 1200)], keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2000, 1200), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
