"""SRGDiff: a latent of the few channels, made that of the many by diffusion; its networks.

H. Liu, L. Zhou, Z. Yang, C. Yao, *Step-Aware Residual-Guided Diffusion for EEG Spatial
Super-Resolution*, arXiv 2510.19166, and what they released as `DhrLhj/ICLR2026SRGDiff`, commit
57cb697. They give no licence: all of this is written from a description, no code is taken.
"""
