"""Published figures of ImageNet classifiers, by timm's names."""

# timm's name: size, published top-1 on ImageNet-1K, parameters in M, multiply-adds in G
PUBLISHED = {
    # arXiv 2407.08083, table 1, and the released models' pages
    'mambavision_tiny': (224, 82.3, 31.8, 4.4), 'mambavision_tiny2': (224, 82.7, 35.1, 5.1),
    'mambavision_small': (224, 83.3, 50.1, 7.5), 'mambavision_base': (224, 84.2, 97.7, 15.0),
    'mambavision_large': (224, 85.0, 227.9, 34.9), 'mambavision_large2': (224, 85.3, 241.5, 37.5),
    # arXiv 2201.03545
    'convnext_tiny': (224, 82.1, 28.6, 4.5), 'convnext_small': (224, 83.1, 50.2, 8.7),
    'convnext_base': (224, 83.8, 88.6, 15.4), 'convnext_large': (224, 84.3, 197.8, 34.4),
    # arXiv 2103.14030
    'swin_tiny_patch4_window7_224': (224, 81.3, 29, 4.5), 'swin_small_patch4_window7_224': (224, 83.0, 50, 8.7),
    'swin_base_patch4_window7_224': (224, 83.5, 88, 15.4),
    # arXiv 2111.09883
    'swinv2_tiny_window8_256': (256, 81.8, 28, 5.9), 'swinv2_small_window8_256': (256, 83.7, 50, 11.5),
    'swinv2_base_window8_256': (256, 84.2, 88, 20.3),
    # arXiv 2012.12877
    'deit_small_patch16_224': (224, 79.8, 22, 4.6), 'deit_base_patch16_224': (224, 81.8, 86, 17.5),
    # arXiv 2104.00298
    'tf_efficientnetv2_s': (384, 83.9, 22, 8.8),
    # arXiv 2303.14189
    'fastvit_sa24': (256, 82.6, 20.6, 3.8), 'fastvit_sa36': (256, 83.6, 30.4, 5.6),
    'fastvit_ma36': (256, 83.9, 42.7, 7.9),
    # arXiv 2207.05501
    'nextvit_small': (224, 82.5, 31.7, 5.8), 'nextvit_base': (224, 83.2, 44.8, 8.3),
    'nextvit_large': (224, 83.6, 57.8, 10.8),
    # arXiv 2405.07992
    'mambaout_tiny': (224, 82.7, 27, 4.5), 'mambaout_small': (224, 84.1, 48, 9.0),
    'mambaout_base': (224, 84.2, 85, 15.8),
}
PRETRAINED = {  # pretrained on ImageNet-21K; arXiv 2407.08083 and the released models' pages
    'mambavision_base.in21k_ft_in1k': (224, 84.9, 97.7, 15.0),
    'mambavision_large.in21k_ft_in1k': (224, 86.1, 227.9, 34.9),
    'mambavision_large2.in21k_ft_in1k_512': (512, 87.3, 241.5, None),
    'mambavision_large3.in21k_ft_in1k_256': (256, 87.3, 739.6, 122.3),
    'mambavision_large3.in21k_ft_in1k_512': (512, 88.1, 739.6, None),
}
