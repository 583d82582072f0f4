# A Cascade Mask R-CNN that trains in minutes on two CPU cores, on the data that tools/demo/make_shapes_dataset.py draws
# with --task coloured. The shapes are large, so the pyramid starts at stride 8; stride 4 takes a fifth more time.
_base_ = [
    '_base_/models/cascade_mask_rcnn.py', '_base_/datasets/shapes_coco.py',
    '_base_/schedules/adamw_1x.py', '_base_/coco_runtime.py'
]

channels = 64
norm_cfg = dict(type='BN')
stages = ((0.5, 0.1, 0.2), (0.6, 0.05, 0.1), (0.7, 0.033, 0.067))  # IoU of positives; scales of box centre and size

model = dict(
    backbone=dict(
        _delete_=True,
        type='MambaVision',
        arch=dict(dim=32, in_dim=16, depths=(1, 1, 2, 2), num_heads=(2, 2, 4, 8)),
        window_size=None,
        out_indices=(1, 2, 3),
        drop_path_rate=0.),
    neck=dict(in_channels=[64, 128, 256], out_channels=channels, num_outs=3, norm_cfg=norm_cfg),
    rpn_head=dict(
        in_channels=channels,
        feat_channels=channels,
        anchor_generator=dict(scales=[4], strides=[8, 16, 32])),
    roi_head=dict(
        bbox_roi_extractor=dict(
            out_channels=channels, featmap_strides=[8, 16], roi_layer=dict(sampling_ratio=1)),
        bbox_head=[
            dict(
                type='ConvFCBBoxHead',
                num_shared_convs=0,
                num_shared_fcs=1,
                in_channels=channels,
                conv_out_channels=channels,
                fc_out_channels=256,
                roi_feat_size=7,
                num_classes=4,
                norm_cfg=norm_cfg,
                bbox_coder=dict(
                    type='DeltaXYWHBBoxCoder', target_means=[0., 0., 0., 0.], target_stds=[xy, xy, wh, wh]),
                reg_class_agnostic=True,
                reg_decoded_bbox=True,
                loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
                loss_bbox=dict(type='GIoULoss', loss_weight=10.0)) for _, xy, wh in stages
        ],
        mask_roi_extractor=dict(
            out_channels=channels, featmap_strides=[8, 16], roi_layer=dict(sampling_ratio=1)),
        mask_head=dict(
            num_convs=2,
            norm_cfg=norm_cfg,
            in_channels=channels,
            conv_out_channels=channels,
            num_classes=4,
            loss_mask=dict(type='CrossEntropyLoss', use_mask=True, loss_weight=2.0))),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=256, max_per_img=64),
        rcnn=[
            dict(
                assigner=dict(
                    type='MaxIoUAssigner',
                    pos_iou_thr=iou,
                    neg_iou_thr=iou,
                    min_pos_iou=iou,
                    match_low_quality=False,
                    ignore_iof_thr=-1),
                sampler=dict(
                    type='RandomSampler', num=16, pos_fraction=0.5, neg_pos_ub=-1, add_gt_as_proposals=True),
                mask_size=28,
                pos_weight=-1,
                debug=False) for iou, _, _ in stages
        ]),
    test_cfg=dict(rpn=dict(nms_pre=256, max_per_img=64), rcnn=dict(max_per_img=20)))

max_epochs = 5
train_dataloader = dict(batch_size=2)
auto_scale_lr = dict(base_batch_size=2)
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0, T_max=max_epochs, convert_to_iter_based=True),
]
# No paramwise_cfg: mmengine would create a group for each parameter. AdamW updates one group in one call.
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(lr=1e-3, fused=True), paramwise_cfg=None, clip_grad=dict(max_norm=35.))
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=max_epochs))
randomness = dict(seed=0)
