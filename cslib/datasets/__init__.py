"""Items to train on: crops, multi-crop views, mixtures and pairs, how they are augmented, and their order."""
