"""Training items: labelled crops, multi-crop views, mixtures and pairs of noisy and clean speech, with augmentation."""
