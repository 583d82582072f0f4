# mmseg's Mask2Former on ADE20K, 160k iterations; 8 GPUs x 2 images. As in mmseg, the backbone has 10% of the learning
# rate, and norms and embeddings have no weight decay. Needs mmdet and mmseg.
_base_ = [
    '_base_/models/mask2former.py', '_base_/datasets/ade20k.py', '_base_/schedules/adamw_160k.py',
    '_base_/segmentation_runtime.py'
]

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(
        type='RandomChoiceResize',
        scales=[int(512 * tenths * 0.1) for tenths in range(5, 21)],
        resize_type='ResizeShortestEdge',
        max_size=2048),
    dict(type='RandomCrop', crop_size=(512, 512), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(batch_size=2, dataset=dict(pipeline=train_pipeline))

depths = (1, 3, 8, 4)
custom_keys = {
    'backbone': dict(lr_mult=0.1),
    **{f'backbone.{part}': dict(lr_mult=0.1, decay_mult=0.)
       for part in ('patch_embed.conv_down.1', 'patch_embed.conv_down.4', 'outnorm')},
    **{f'backbone.levels.{level}.blocks.{block}.norm': dict(lr_mult=0.1, decay_mult=0.)
       for level, depth in enumerate(depths) for block in range(depth)},
    **{part: dict(decay_mult=0.) for part in ('query_embed', 'query_feat', 'level_embed')},
}
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
    clip_grad=dict(max_norm=0.01, norm_type=2),
    paramwise_cfg=dict(custom_keys=custom_keys, norm_decay_mult=0.))
param_scheduler = [dict(type='PolyLR', eta_min=0, power=0.9, begin=0, end=160000, by_epoch=False)]
